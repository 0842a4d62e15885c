"""A second revision goes live under load: every answer must come from the weights it names, and none may fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luthier import AsyncClient
from luthier.errors import LuthierError
from luthier.inference.v1.inference_service_pb2 import ChatResponse, TokenIds

from examples.demo.provenance import deviation_nats, is_from
from examples.demo.tenants import BASE_MODEL, Tenant

REQUEST_COUNT = 200
CONCURRENCY = 24
MAX_TOKENS = 16

Prompt = Sequence[Mapping[str, str]]


@dataclass(kw_only=True)
class SwapReport:
    """What happened under load.

    mixed: answers that are not from the weights they name, or from weights that the caller's deployment never had.
    scored_count: answers with another text than the same weights give alone, which log-probabilities had to decide on.
    """

    request_count: int = 0
    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    scored_count: int = 0
    answers_by_loaded_adapter: Counter[str] = field(default_factory=Counter)
    deploy_seconds: float = 0.0
    rollback_seconds: float = 0.0
    live_after_deploy: str = ""
    live_after_rollback: str = ""


@dataclass(frozen=True)
class Route:
    """Where requests go, and the weights (adapter revisions or base model) that may answer them."""

    client: AsyncClient
    target: str
    weights: frozenset[str]


@dataclass(frozen=True)
class Seen:
    """An answer under load, and the weights that it names."""

    route: Route
    prompt_index: int
    weights: str
    answer: ChatResponse


async def swap_under_load(swapped: Tenant, other: Tenant, prompts: Sequence[Prompt]) -> SwapReport:
    """Sends `REQUEST_COUNT` requests of both tenants and the base; deploys at one third, rolls back at two thirds.

    The answers are checked afterwards, so that the deploy loads its adapter cold.
    """
    own = [revision.name for revision in swapped.revisions[:2]]
    theirs = other.revisions[0].name
    routes = (
        Route(swapped.client, swapped.deployment_name, frozenset(own)),
        Route(other.client, other.deployment_name, frozenset({theirs})),
        Route(swapped.client, BASE_MODEL, frozenset({BASE_MODEL})),
    )
    report = SwapReport()
    seen: list[Seen] = []
    numbers = iter(range(REQUEST_COUNT))
    one_third, two_thirds = asyncio.Event(), asyncio.Event()
    marks = {REQUEST_COUNT // 3: one_third, 2 * REQUEST_COUNT // 3: two_thirds}

    async def caller() -> None:
        for number in numbers:
            if number in marks:
                marks[number].set()
            route, index = routes[number % len(routes)], number // len(routes) % len(prompts)
            report.request_count += 1
            try:
                answer = await route.client.inference.chat(
                    route.target, list(prompts[index]), max_tokens=MAX_TOKENS, top_logprob_count=0
                )
            except LuthierError as error:
                report.failed.append(f"{route.target}: {error}")
                continue
            report.answers_by_loaded_adapter[answer.origin.loaded_adapter] += 1
            seen.append(Seen(route, index, answer.origin.adapter_revision or answer.origin.base_model, answer))

    async with asyncio.TaskGroup() as group:
        group.create_task(_swap(swapped, own[1], report, deploy=one_third, roll_back=two_thirds))
        for _ in range(CONCURRENCY):
            group.create_task(caller())
    clients = {**dict.fromkeys((*own, BASE_MODEL), swapped.client), theirs: other.client}
    await _check(seen, prompts, clients, report)
    return report


async def _swap(
    tenant: Tenant, revision: str, report: SwapReport, *, deploy: asyncio.Event, roll_back: asyncio.Event
) -> None:
    """Deploys `revision` and rolls back, each at its event."""
    loop = asyncio.get_running_loop()
    await deploy.wait()
    start = loop.time()
    deployed = await tenant.client.deployments.deploy(tenant.deployment_name, adapter_revision=revision)
    report.deploy_seconds, report.live_after_deploy = loop.time() - start, deployed.live.adapter_revision
    await roll_back.wait()
    start = loop.time()
    back = await tenant.client.deployments.rollback(tenant.deployment_name)
    report.rollback_seconds, report.live_after_rollback = loop.time() - start, back.live.adapter_revision


async def _check(
    seen: Sequence[Seen], prompts: Sequence[Prompt], clients: Mapping[str, AsyncClient], report: SwapReport
) -> None:
    """Finds the mixed answers. clients: by weights, a client that may use them.

    An answer is right if the weights that it names give the same text alone, or, where rounding may have chosen another
    token, if its log-probabilities are theirs.
    """
    alone = {weights: await _answers_alone(client, weights, prompts) for weights, client in clients.items()}
    scores: dict[tuple[int, tuple[int, ...]], dict[str, list[float]]] = {}
    for one in seen:
        text = one.answer.text
        if one.weights not in one.route.weights:
            report.mixed.append(f"{one.route.target} answered as {one.weights}: {text!r}")
        elif text != alone[one.weights][one.prompt_index]:
            report.scored_count += 1
            token_ids = tuple(token.token_id for token in one.answer.logprobs)
            key = one.prompt_index, token_ids
            if key not in scores:
                scores[key] = await _scores(clients, prompts[one.prompt_index], token_ids)
            generated = [token.logprob for token in one.answer.logprobs]
            deviations = {weights: deviation_nats(generated, scored) for weights, scored in scores[key].items()}
            if not is_from(one.weights, deviations):
                found = ", ".join(f"{weights} {deviation:.3f}" for weights, deviation in deviations.items())
                report.mixed.append(f"{one.route.target} answered as {one.weights}: {text!r}; nats off: {found}")


async def _answers_alone(client: AsyncClient, weights: str, prompts: Sequence[Prompt]) -> list[str]:
    """What weights answer when nothing else is asked."""
    return [(await client.inference.chat(weights, list(one), max_tokens=MAX_TOKENS)).text for one in prompts]


async def _scores(
    clients: Mapping[str, AsyncClient], prompt: Prompt, token_ids: Sequence[int]
) -> dict[str, list[float]]:
    """The log-probabilities of an answer's tokens, by weights."""

    async def score(weights: str, client: AsyncClient) -> list[float]:
        if not token_ids:
            return []
        scored = await client.inference.score(weights, list(prompt), TokenIds(ids=token_ids))
        return [token.logprob for token in scored.tokens]

    found = await asyncio.gather(*(score(weights, client) for weights, client in clients.items()))
    return dict(zip(clients, found, strict=True))
