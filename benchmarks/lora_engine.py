"""One vLLM engine for `lora_serving`, in a process of its own: reads rounds from stdin, answers seconds on stdout.

    python -m benchmarks.lora_engine MODEL_FOLDER ADAPTER_FOLDER...

A round is a JSON list: for each request the index of its adapter, or null for the base model. The answer is one JSON
line, `{"seconds": ..., "tokens": ...}`. How vLLM runs (plugin, threads, preloads) comes from the environment.
"""

from __future__ import annotations

import json
import sys
import time

from luthierd.inference.engine.platform_settings import cpu_dtype

NEW_TOKENS = 64
MAX_RANK = 16


def main() -> None:
    """Starts the engine, says `ready`, then answers rounds until stdin ends."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    model, *adapters = sys.argv[1:]
    llm = LLM(
        model,
        dtype=cpu_dtype(),
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=32,
        gpu_memory_utilization=0.3,
        enable_lora=True,
        max_loras=4,
        max_cpu_loras=4,
        max_lora_rank=MAX_RANK,
    )
    loras = [LoRARequest(f"adapter-{index}", index + 1, path) for index, path in enumerate(adapters)]
    sampling = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
    print(json.dumps("ready"), flush=True)
    for number, line in enumerate(sys.stdin):
        chosen = json.loads(line)
        prompts = [f"Question {number}.{index}: what is a moving average?" for index in range(len(chosen))]
        requests = [None if index is None else loras[index] for index in chosen]
        start = time.perf_counter()
        outputs = llm.generate(prompts, sampling, lora_request=requests, use_tqdm=False)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "tokens": sum(len(o.outputs[0].token_ids) for o in outputs)}), flush=True)


if __name__ == "__main__":
    main()
