"""One vLLM engine for the engine benchmarks, as a separate process: reads rounds from stdin, answers on stdout.

    python -m benchmarks.lora_engine MODEL_FOLDER ADAPTER_FOLDER...

A round is a JSON object with `adapters` (per request the index of its adapter, or null for the base model),
`prompt_tokens` (length of each prompt) and `new_tokens` (length of each answer). The answer is a JSON object with
`seconds`, `tokens` (generated) and `extra_bytes` (peak memory above that before the round, over all processes of the
engine). The environment configures vLLM (plugin, threads, preloads).
"""

from __future__ import annotations

import json
import pathlib
import random
import sys
import time
from typing import Any

import psutil
from luthierd.inference.engine.platform_settings import cpu_dtype

MAX_RANK = 16
WINDOW = 1024
FIRST_WORD, LAST_WORD = 1000, 40000
"""Token ids of ordinary words in any tokenizer of this size."""


def main() -> None:
    """Starts the engine, prints `ready`, then answers rounds until stdin ends."""
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    model, *adapters = sys.argv[1:]
    llm = LLM(
        model,
        dtype=cpu_dtype(),
        enforce_eager=True,
        max_model_len=WINDOW,
        max_num_seqs=32,
        gpu_memory_utilization=0.3,
        enable_lora=True,
        max_loras=4,
        max_cpu_loras=4,
        max_lora_rank=MAX_RANK,
    )
    loras = [LoRARequest(f"adapter-{index}", index + 1, path) for index, path in enumerate(adapters)]
    print(json.dumps("ready"), flush=True)
    for number, line in enumerate(sys.stdin):
        print(json.dumps(_round(llm, loras, number, **json.loads(line))), flush=True)


def _round(
    llm: Any, loras: list[Any], number: int, *, adapters: list[int | None], prompt_tokens: int, new_tokens: int
) -> dict[str, float]:
    """All prompts of all rounds differ, so the prefix cache never hits."""
    from vllm import SamplingParams

    rng = random.Random(number)
    prompts = [
        {"prompt_token_ids": [rng.randint(FIRST_WORD, LAST_WORD) for _ in range(prompt_tokens)]} for _ in adapters
    ]
    requests = [None if index is None else loras[index] for index in adapters]
    sampling = SamplingParams(max_tokens=new_tokens, temperature=0, ignore_eos=True)
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    before = sum(process.memory_info().rss for process in processes)
    for process in processes:
        pathlib.Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # resets the peak (proc(5))
    start = time.perf_counter()
    outputs = llm.generate(prompts, sampling, lora_request=requests, use_tqdm=False)
    seconds = time.perf_counter() - start
    peak = sum(_peak_bytes(process.pid) for process in processes)
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {"seconds": seconds, "tokens": tokens, "extra_bytes": max(0, peak - before)}


def _peak_bytes(pid: int) -> int:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
