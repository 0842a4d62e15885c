"""Far more adapters than slots in the engine: Zipf traffic over 200 deployments, compared with four resident ones."""

from __future__ import annotations

import asyncio
import pathlib
import random
import time
from collections.abc import Iterator, Sequence

from luthier import AsyncClient
from luthierd.inference.config import InferenceConfig

from benchmarks import results, server

ADAPTERS, RESIDENT = 200, 4
SLOTS = (RESIDENT, InferenceConfig.max_loras)
"""Adapters in one batch: as many as are resident on the other side, and the server's default."""
CONCURRENCY, REQUESTS, NEW_TOKENS = 16, 96, 64
ZIPF_EXPONENT = 1.0
DEPLOYS_AT_A_TIME = 4
TARGETS = {RESIDENT: ">= 0.60"}


def measure(
    model: pathlib.Path, folder: pathlib.Path, adapters: Sequence[pathlib.Path], *, rounds: int
) -> Iterator[dict[str, object]]:
    """`adapters`: `ADAPTERS` different ones."""
    settings = {"max_loras": SLOTS[0], "max_cpu_loras": ADAPTERS}
    with server.running(folder / "many", model, **settings) as inference:
        deployments = asyncio.run(_deployed(server.client(inference), server.register(inference, adapters[:ADAPTERS])))
        for slots in SLOTS:
            if slots != SLOTS[0]:
                inference.stop()
                inference.environment["LUTHIER_INFERENCE_MAX_LORAS"] = str(slots)
                inference.start()
            pairs = asyncio.run(_measured(server.client(inference), deployments, rounds=rounds))
            name = f"tokens_per_s: Zipf over {ADAPTERS} adapters with {slots} slots / {RESIDENT} adapters resident"
            yield results.ratio("many_adapters", name, pairs, target=TARGETS.get(slots, ""))


async def _deployed(client: AsyncClient, revisions: Sequence[str]) -> list[str]:
    """Names of deployments, one per adapter."""
    async with client:
        names = [f"tenants/{server.TENANT}/deployments/d{number}" for number in range(len(revisions))]
        gate = asyncio.Semaphore(DEPLOYS_AT_A_TIME)

        async def deploy(name: str, revision: str) -> None:
            async with gate:
                await client.deployments.deploy(name, adapter_revision=revision)

        await asyncio.gather(*map(deploy, names, revisions))
        return names


async def _measured(client: AsyncClient, names: Sequence[str], *, rounds: int) -> list[tuple[float, float]]:
    """Tokens per second over all adapters and over `RESIDENT` of them, by round."""
    async with client:
        weights = [1 / rank**ZIPF_EXPONENT for rank in range(1, len(names) + 1)]
        pairs = []
        for number in range(rounds + 1):
            rng = random.Random(number)
            many = await _tokens_per_s(client, rng.choices(names, weights, k=REQUESTS), f"{number}-many")
            few = await _tokens_per_s(client, rng.choices(names[:RESIDENT], k=REQUESTS), f"{number}-few")
            if number:  # the first round warms up
                pairs.append((many, few))
        return pairs


async def _tokens_per_s(client: AsyncClient, targets: Sequence[str], label: str) -> float:
    """Queries all targets, so many at a time."""
    waiting = iter(enumerate(targets))
    counts: list[int] = []

    async def application() -> None:
        for number, target in waiting:
            question = f"{label}-{number}. Explain at length what a moving average is."
            answer = await client.inference.chat(target, question, max_tokens=NEW_TOKENS)
            counts.append(answer.finish.completion_token_count)

    start = time.perf_counter()
    await asyncio.gather(*(application() for _ in range(CONCURRENCY)))
    return sum(counts) / (time.perf_counter() - start)
