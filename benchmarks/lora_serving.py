"""Adapters in a batch on a CPU: our vLLM plugin compared with stock vLLM, alternating in one run.

Three engines run at the same time and take turns: ours, stock vLLM with the same threads and OpenMP runtime, and stock
vLLM with its defaults. Decoding: 16 concurrent requests of 64 new tokens; prefill: 16 prompts of 512 tokens. Ratios are
medians of the rounds. Stock vLLM gives wrong answers for requests without an adapter in a mixed batch; only speed is
compared here.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from luthierd.inference.engine.platform_settings import cpu_environment
from luthierd.inference.engine.vllm_engine import QUIET

from benchmarks import results

BATCH = 16


@dataclass(frozen=True)
class Load:
    """The work of one round."""

    adapters: Sequence[int | None]
    prompt_tokens: int = 12
    new_tokens: int = 64


FOUR = [index % 4 for index in range(BATCH)]
LOADS = {
    "base": Load([None] * BATCH),
    "one": Load([0] * BATCH),
    "four": Load(FOUR),
    "prefill": Load(FOUR, prompt_tokens=512, new_tokens=1),
}
PLAN = [
    *(("ours", name) for name in LOADS),
    *(("stock_same_threads", name) for name in ("four", "prefill")),
    ("stock_by_itself", "four"),
]


@dataclass(frozen=True)
class Seen:
    """The results of one round."""

    tokens_per_s: float
    seconds: float
    extra_mib: float


class Engine:
    """An engine process that answers rounds."""

    def __init__(self, model: pathlib.Path, adapters: Sequence[pathlib.Path], environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "benchmarks.lora_engine", str(model), *map(str, adapters)]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **QUIET, "VLLM_CPU_KVCACHE_SPACE": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        while self._answer() != "ready":
            pass

    def round(self, load: Load) -> Seen:
        """One round."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(vars(load)) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert isinstance(answer, dict)
        return Seen(answer["tokens"] / answer["seconds"], answer["seconds"], answer["extra_bytes"] / 2**20)

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
                continue  # a line printed by a library
        raise SystemExit(f"the engine process ended with {self._process.wait()}; its stderr is above")


def measure(model: pathlib.Path, adapters: Sequence[pathlib.Path], *, rounds: int) -> Iterator[dict[str, object]]:
    """One result per ratio."""
    tuned = cpu_environment(kv_cache_gib=1)
    engines = {
        "ours": Engine(model, adapters, tuned),
        "stock_same_threads": Engine(model, adapters, {**tuned, "VLLM_PLUGINS": ""}),
        "stock_by_itself": Engine(model, adapters, {"VLLM_PLUGINS": ""}),
    }
    seen: dict[tuple[str, str], list[Seen]] = {key: [] for key in PLAN}
    for round_number in range(rounds + 1):
        for name, load in PLAN:
            figures = engines[name].round(LOADS[load])
            if round_number:  # the first round warms up
                seen[name, load].append(figures)
    for engine in engines.values():
        engine.close()
    same, itself = "stock with the same threads", "stock as it starts by itself"
    ours, stock = ("ours", "four"), ("stock_same_threads", "four")
    prefill = seen["ours", "prefill"], seen["stock_same_threads", "prefill"]
    yield _ratio("tokens_per_s", "four adapters / base, ours", seen[ours], seen["ours", "base"], target=">= 0.90")
    yield _ratio(
        "tokens_per_s", "one adapter / base, ours", seen["ours", "one"], seen["ours", "base"], target=">= 0.92"
    )
    yield _ratio("tokens_per_s", f"four adapters, ours / {same}", seen[ours], seen[stock], target=">= 3")
    yield _ratio(
        "tokens_per_s", f"four adapters, ours / {itself}", seen[ours], seen["stock_by_itself", "four"], target=">= 5"
    )
    yield _ratio("seconds", f"prefill with four adapters, ours / {same}", *prefill, target="<= 0.5")
    yield _ratio("extra_mib", f"prefill with four adapters, ours / {same}", *prefill, target="<= 0.25")


def _ratio(figure: str, name: str, above: Sequence[Seen], below: Sequence[Seen], *, target: str) -> dict[str, object]:
    pairs = [(getattr(a, figure), getattr(b, figure)) for a, b in zip(above, below, strict=True)]
    return results.ratio("lora_serving", f"{figure}: {name}", pairs, target=target)
