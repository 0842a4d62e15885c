"""Runs an engine of its own on a base model and two adapters: `python batch_script.py BASE A B`.

Prints one JSON line: what base, A and B answer alone, and what they answer in one batch.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import sys

from luthierd.inference.config import InferenceConfig
from luthierd.inference.domain.completion import Sampling, Turn
from luthierd.inference.engine.engine import EngineAdapter, EngineRequest
from luthierd.inference.engine.vllm_engine import VllmEngine, start_vllm

QUESTION = (Turn("user", "who are you?"),)


async def main(base: pathlib.Path, *adapters: pathlib.Path) -> None:
    """Alone first, then all at once."""
    engine = await start_vllm(base, InferenceConfig(dtype="float32", max_num_seqs=8, max_loras=2))
    loaded: list[EngineAdapter | None] = [None]
    for number, folder in enumerate(adapters, start=1):
        loaded.append(adapter := EngineAdapter(f"adapter-{number}", number, folder))
        await engine.load_adapter(adapter)
    alone = [await answer(engine, f"alone-{index}", adapter) for index, adapter in enumerate(loaded)]
    together = await asyncio.gather(
        *(answer(engine, f"batch-{index}", adapter) for index, adapter in enumerate(loaded))
    )
    await engine.close()
    print(json.dumps({"alone": alone, "together": together}))


async def answer(engine: VllmEngine, request_id: str, adapter: EngineAdapter | None) -> str:
    """A greedy answer."""
    request = EngineRequest(
        request_id=request_id,
        prompt_ids=engine.render_chat(QUESTION),
        sampling=Sampling(max_tokens=24),
        adapter=adapter,
        cache_salt=request_id,
    )
    return "".join([delta.text async for delta in engine.generate(request)])


if __name__ == "__main__":
    asyncio.run(main(*map(pathlib.Path, sys.argv[1:])))
