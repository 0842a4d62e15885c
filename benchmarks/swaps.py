"""The cost of a swap: time from publish to first token by stage, and the effect of 20 swaps on other streams."""

from __future__ import annotations

import asyncio
import itertools
import pathlib
import statistics
import time
from collections.abc import Iterator, Sequence

from luthier import AsyncClient
from support.inference_server import BASE

from benchmarks import material, server

DEPLOYMENT = f"tenants/{server.TENANT}/deployments/swapped"
STEADY = f"tenants/{server.TENANT}/deployments/steady"
STREAMS, NEW_TOKENS = 8, (64, 40, 88, 52, 76, 34, 94)
"""Lengths of answers, in rotation. With one length for all, streams begin and end together until swaps separate them,
so that streams would wait for other streams' prompts only in the run with swaps.
"""
PUBLISHES, SWAPS = 5, 20
SWAP_INTERVAL_S = 1.5

ADAPTERS_NEEDED = 2 + PUBLISHES + SWAPS


def measure(model: pathlib.Path, folder: pathlib.Path, adapters: Sequence[pathlib.Path]) -> Iterator[dict[str, object]]:
    """`adapters`: at least `ADAPTERS_NEEDED` different ones."""
    material.record_references(model, adapters)
    with server.running(folder / "swaps", model) as inference:
        revisions = server.register(inference, adapters)
        publishes, quiet, swapping = asyncio.run(_measured(server.client(inference), revisions))
    yield {
        "benchmark": "swaps",
        "figure_of": "seconds from DeployAdapter to the new revision's first token, engine warm",
        "figure": round(statistics.median(total for total, _ in publishes), 3),
        "target": "<= 1.0",
        "stages_s": {
            stage: round(statistics.median(stages.get(stage, 0.0) for _, stages in publishes), 3)
            for stage in publishes[0][1]
        },
        "rounds": len(publishes),
    }
    yield {
        "benchmark": "swaps",
        "ratio_of": f"p99 inter-token latency during {SWAPS} swaps / without",
        "ratio": round(_p99(swapping) / _p99(quiet), 3),
        "target": "<= 1.25",
        "figure": round(_p99(swapping) * 1000, 1),
        "peer_figure": round(_p99(quiet) * 1000, 1),
        "worst_ms": round(max(swapping) * 1000, 1),
        "peer_worst_ms": round(max(quiet) * 1000, 1),
        "tokens": len(swapping),
    }


async def _measured(
    client: AsyncClient, revisions: Sequence[str]
) -> tuple[list[tuple[float, dict[str, float]]], list[float], list[float]]:
    async with client:
        fresh = iter(revisions)
        await client.deployments.deploy(STEADY, adapter_revision=next(fresh))
        await client.deployments.deploy(DEPLOYMENT, adapter_revision=next(fresh))
        publishes = [await _publish(client, next(fresh)) for _ in range(PUBLISHES)]
        before = await _gaps(client, asyncio.sleep(SWAPS * SWAP_INTERVAL_S / 2))
        swapping = await _gaps(client, _swap(client, [next(fresh) for _ in range(SWAPS)]))
        after = await _gaps(client, asyncio.sleep(SWAPS * SWAP_INTERVAL_S / 2))
        return publishes, before + after, swapping


async def _publish(client: AsyncClient, revision: str) -> tuple[float, dict[str, float]]:
    """Seconds until the new revision's first token, and the parts they consist of."""
    start = time.perf_counter()
    deployed = await client.deployments.deploy(DEPLOYMENT, adapter_revision=revision)
    published = time.perf_counter()
    stream = client.inference.chat_stream(DEPLOYMENT, "What is a mean?", max_tokens=1)
    async for message in stream:
        assert message.origin.adapter_revision == revision
        break
    stages = {stage.name: stage.duration.ToTimedelta().total_seconds() for stage in deployed.live.load_stages}
    return time.perf_counter() - start, {**stages, "first_token": time.perf_counter() - published}


async def _swap(client: AsyncClient, revisions: Sequence[str]) -> None:
    """One swap per interval."""
    for revision in revisions:
        began = time.perf_counter()
        await client.deployments.deploy(DEPLOYMENT, adapter_revision=revision)
        await asyncio.sleep(max(0.0, SWAP_INTERVAL_S - (time.perf_counter() - began)))


async def _gaps(client: AsyncClient, meanwhile: object) -> list[float]:
    """Seconds between two tokens of a stream, over all streams that run during `meanwhile`."""
    gaps: list[float] = []
    numbers = itertools.count()

    async def stream_on(target: str) -> None:
        while True:
            last = None
            number = next(numbers)
            question, max_tokens = f"{number}. Explain at length what a mean is.", NEW_TOKENS[number % len(NEW_TOKENS)]
            async for _ in client.inference.chat_stream(target, question, max_tokens=max_tokens):
                now = time.perf_counter()
                if last is not None:
                    gaps.append(now - last)
                last = now

    targets = itertools.islice(itertools.cycle((BASE, STEADY, DEPLOYMENT)), STREAMS)
    streams = [asyncio.create_task(stream_on(target)) for target in targets]
    await asyncio.sleep(SWAP_INTERVAL_S)  # until all streams are decoding
    gaps.clear()
    await meanwhile  # type: ignore[misc]
    for stream in streams:
        stream.cancel()
    await asyncio.wait(streams)
    return gaps


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[-1]
