"""A second revision goes live under load: every answer must come from the adapter that it names, and none may fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luthier import AsyncClient
from luthier.errors import LuthierError

from examples.demo.tenants import BASE_MODEL, Tenant

REQUEST_COUNT = 200
CONCURRENCY = 24
MAX_TOKENS = 16

Prompt = Sequence[Mapping[str, str]]


@dataclass
class SwapReport:
    """Results of the load."""

    request_count: int = 0
    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    """Answers that differ from what their loaded adapter says when asked alone, or that come from another tenant's."""
    answers_by_loaded_adapter: Counter[str] = field(default_factory=Counter)
    deploy_seconds: float = 0.0
    rollback_seconds: float = 0.0
    live_after_deploy: str = ""
    live_after_rollback: str = ""


@dataclass(frozen=True)
class Seen:
    """One answer under load: question, target, and the adapter revision (or base model) that answered."""

    target: str
    prompt_index: int
    source: str
    text: str


async def answers_alone(client: AsyncClient, target: str, prompts: Sequence[Prompt]) -> list[str]:
    """A target's answers without load."""
    return [(await client.inference.chat(target, list(p), max_tokens=MAX_TOKENS)).text for p in prompts]


async def swap_under_load(swapped: Tenant, other: Tenant, prompts: Sequence[Prompt]) -> SwapReport:
    """Sends `REQUEST_COUNT` requests of both tenants and the base; deploys at one third, rolls back at two thirds.

    Afterwards the answers are compared with each revision's answers without load. This order lets the deploy load its
    adapter cold.
    """
    own = [revision.name for revision in swapped.revisions[:2]]
    report = SwapReport()
    routes = [
        (swapped.client, swapped.deployment_name, {*own}),
        (other.client, other.deployment_name, {other.revisions[0].name}),
        (swapped.client, BASE_MODEL, {BASE_MODEL}),
    ]
    allowed_sources = {target: allowed for _, target, allowed in routes}
    numbers = iter(range(REQUEST_COUNT))
    marks = {REQUEST_COUNT // 3: asyncio.Event(), 2 * REQUEST_COUNT // 3: asyncio.Event()}
    seen: list[Seen] = []

    async def caller() -> None:
        for number in numbers:
            if number in marks:
                marks[number].set()
            client, target, _ = routes[number % len(routes)]
            index = (number // len(routes)) % len(prompts)
            report.request_count += 1
            try:
                answer = await client.inference.chat(target, list(prompts[index]), max_tokens=MAX_TOKENS)
            except LuthierError as error:
                report.failed.append(f"{target}: {error}")
                continue
            origin = answer.origin
            report.answers_by_loaded_adapter[origin.loaded_adapter] += 1
            seen.append(Seen(target, index, origin.adapter_revision or origin.base_model, answer.text))

    async def operator() -> None:
        loop = asyncio.get_running_loop()
        await marks[REQUEST_COUNT // 3].wait()
        start = loop.time()
        deployed = await swapped.client.deployments.deploy(swapped.deployment_name, adapter_revision=own[1])
        report.deploy_seconds, report.live_after_deploy = loop.time() - start, deployed.live.adapter_revision
        await marks[2 * REQUEST_COUNT // 3].wait()
        start = loop.time()
        back = await swapped.client.deployments.rollback(swapped.deployment_name)
        report.rollback_seconds, report.live_after_rollback = loop.time() - start, back.live.adapter_revision

    async with asyncio.TaskGroup() as group:
        group.create_task(operator())
        for _ in range(CONCURRENCY):
            group.create_task(caller())
    alone = {target: await answers_alone(swapped.client, target, prompts) for target in (*own, BASE_MODEL)}
    theirs = other.revisions[0].name
    alone[theirs] = await answers_alone(other.client, theirs, prompts)
    for one in seen:
        if one.source not in allowed_sources[one.target] or one.text != alone[one.source][one.prompt_index]:
            report.mixed.append(f"{one.target} answered as {one.source}: {one.text!r}, alone: {alone.get(one.source)}")
    return report
