"""Parity: vLLM with our plugin gives the log-probabilities of transformers with PEFT, for every adapter in a batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
from luthier import AsyncClient, Endpoints
from luthierd.inference.config import InferenceConfig
from luthierd.inference.engine.engine import EngineAdapter
from luthierd.inference.engine.transformers_engine import start_transformers
from support.inference_server import BASE, InferenceServer

pytestmark = pytest.mark.e2e

TENANT = "even"
PROMPTS = ["a", "a question of some length, for a prompt that takes its time", "who are you?" * 8]
SCORED = "an answer that nobody gave"
TOKENS = 24
MAX_DIFFERENCE_NATS = 1e-4
"""Of any token, float32 on both sides: seven times what was measured (docs/decisions/0008). A wrong scale, slot or
slice of an adapter gives whole nats here."""

ADAPTERS: dict[str, dict[str, object]] = {
    "rank 4": {"rank": 4},
    "rank 8, scaled twice": {"rank": 8, "alpha": 16.0},
    "rank 16, rsLoRA": {"rank": 16, "use_rslora": True, "alpha": 8.0},
    "rank 64": {"rank": 64},
    "rank 64, rsLoRA": {"rank": 64, "use_rslora": True, "alpha": 16.0},
    "q and v only": {"rank": 8, "modules": ("q_proj", "v_proj")},
    "k only": {"rank": 12, "modules": ("k_proj",)},
    "gate and down only": {"rank": 32, "modules": ("gate_proj", "down_proj")},
}


@dataclass(frozen=True)
class Found:
    """Tokens after a prompt with their log-probabilities: made by the engine (`decode`), or given to it (`prefill`)."""

    kind: str
    target: str
    prompt: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@pytest.fixture
async def client(server: InferenceServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(Endpoints(inference=f"127.0.0.1:{server.port}"), server.token(TENANT)) as made:
        yield made


async def answered(client: AsyncClient, target: str, prompt: str) -> Found:
    """A greedy answer, with the log-probabilities as it was decoded."""
    answer = await client.inference.generate(target, prompt, max_tokens=TOKENS, top_logprob_count=0, timeout_s=300)
    ids, logprobs = [one.token_id for one in answer.logprobs], [one.logprob for one in answer.logprobs]
    return Found("decode", target, prompt, tuple(ids), tuple(logprobs))


async def scored(client: AsyncClient, target: str, prompt: str) -> Found:
    """A given text, computed as part of a prompt."""
    score = await client.inference.score(target, prompt, SCORED, timeout_s=300)
    ids, logprobs = [one.token_id for one in score.tokens], [one.logprob for one in score.tokens]
    return Found("prefill", target, prompt, tuple(ids), tuple(logprobs))


async def test_vllm_agrees_with_transformers_and_peft_in_mixed_batches(
    server: InferenceServer, client: AsyncClient, record_property: Callable[[str, object], None]
) -> None:
    """All at once, more than fit into the batch: prompts are computed in the same steps as tokens of others."""
    adapters: dict[str, EngineAdapter | None] = {BASE: None}
    for number, options in enumerate(ADAPTERS.values(), start=1):
        name = server.add_revision(TENANT, f"r{number}", seed=400 + number, adapter="parity", **options)
        adapters[name] = EngineAdapter(f"r{number}", number, server.folder / f"made/{TENANT}-parity-r{number}")
    found = await asyncio.gather(
        *(how(client, target, prompt) for prompt in PROMPTS for target in adapters for how in (answered, scored))
    )
    peft = await start_transformers(server.folder / "made/base", InferenceConfig(dtype="float32", max_lora_rank=64))
    for adapter in filter(None, adapters.values()):
        await peft.load_adapter(adapter)
    worst = {"decode": 0.0, "prefill": 0.0}
    for one in found:
        expected = await peft.score(peft.tokenize(one.prompt), one.token_ids, adapters[one.target])
        differences = [abs(a - b) for a, b in zip(one.logprobs, expected, strict=True)]
        worst[one.kind] = max(worst[one.kind], *differences)
    await peft.close()
    record_property("max_abs_logprob_difference_nats", worst)
    print(f"max abs difference of log-probabilities, nats: {worst}")
    assert max(worst.values()) < MAX_DIFFERENCE_NATS
