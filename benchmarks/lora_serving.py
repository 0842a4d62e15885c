"""Adapters in a batch on a CPU: our vLLM plugin beside stock vLLM, alternating in one run.

Three engines live at once and take turns: ours, stock with the same threads and OpenMP runtime, stock as it starts by
itself. Each round is 16 concurrent requests of 64 new tokens; figures are medians of tokens/s over the rounds. Stock
vLLM answers wrongly where a request of a mixed batch has no adapter; only its speed is compared here.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from luthierd.inference.engine.platform_settings import cpu_environment

BATCH = 16
FOUR = [index % 4 for index in range(BATCH)]
ONE = [0] * BATCH
BASE = [None] * BATCH


class Engine:
    """An engine process that answers rounds."""

    def __init__(self, model: pathlib.Path, adapters: Sequence[pathlib.Path], environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "benchmarks.lora_engine", str(model), *map(str, adapters)]
        quiet = {
            "VLLM_LOGGING_LEVEL": "ERROR",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
        }
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **quiet, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        while self._answer() != "ready":
            pass

    def tokens_per_s(self, chosen: Sequence[int | None]) -> float:
        """One round."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(chosen) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert isinstance(answer, dict)
        return float(answer["tokens"] / answer["seconds"])

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> object:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                return json.loads(line)
            except ValueError:
                continue  # a library's own line
        raise SystemExit(f"the engine process ended with {self._process.wait()}; its stderr is above")


def measure(model: pathlib.Path, adapters: Sequence[pathlib.Path], *, rounds: int) -> Iterator[dict[str, object]]:
    """One result for each ratio."""
    tuned = cpu_environment(kv_cache_gib=1)
    engines = {
        "ours": Engine(model, adapters, tuned),
        "stock_same_threads": Engine(model, adapters, {**tuned, "VLLM_PLUGINS": ""}),
        "stock_by_itself": Engine(model, adapters, {"VLLM_PLUGINS": ""}),
    }
    plan = [(name, kind) for name in engines for kind in (("base", "one", "four") if name == "ours" else ("four",))]
    batches: dict[str, Sequence[int | None]] = {"base": BASE, "one": ONE, "four": FOUR}
    seen: dict[tuple[str, str], list[float]] = {key: [] for key in plan}
    for round_number in range(rounds + 1):
        for name, kind in plan:
            speed = engines[name].tokens_per_s(batches[kind])
            if round_number:  # the first one warms up
                seen[name, kind].append(speed)
    for engine in engines.values():
        engine.close()
    pairs = {
        "four adapters / base, ours": (("ours", "four"), ("ours", "base")),
        "one adapter / base, ours": (("ours", "one"), ("ours", "base")),
        "four adapters, ours / stock with the same threads": (("ours", "four"), ("stock_same_threads", "four")),
        "four adapters, ours / stock as it starts by itself": (("ours", "four"), ("stock_by_itself", "four")),
    }
    for name, (above, below) in pairs.items():
        ratio = statistics.median(a / b for a, b in zip(seen[above], seen[below], strict=True))
        speeds = {
            "tokens_per_s": round(statistics.median(seen[above]), 1),
            "peer_tokens_per_s": round(statistics.median(seen[below]), 1),
        }
        yield {"benchmark": "lora_serving", "ratio_of": name, "ratio": round(ratio, 2), **speeds, "rounds": rounds}
