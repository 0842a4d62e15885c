"""What holds with either engine: the right weights for everybody, while deployments change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from luthier import AsyncClient, Endpoints
from luthier import errors as client_errors
from luthier.inference.v1 import inference_service_pb2 as api
from luthier.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from support.inference_server import BASE, InferenceServer
from support.waiting import until

pytestmark = pytest.mark.e2e

TENANTS = ("east", "west")
PROMPTS = [f"a question, number {number}" for number in range(4)]
TOKENS = 16
SEEDS = {("east", "r1"): 51, ("east", "r2"): 52, ("west", "r1"): 61, ("west", "r2"): 62}

seen: dict[str, dict[tuple[str, str], str]] = {}
"""Greedy answers by engine, then by target and prompt: the engines must agree."""


@pytest.fixture(scope="module", params=["vllm", "transformers"])
def either(request: pytest.FixtureRequest) -> tuple[str, InferenceServer]:
    """The engine's name, and a server with it that knows two revisions of each tenant."""
    server: InferenceServer = request.getfixturevalue("server" if request.param == "vllm" else "transformers_server")
    for (tenant, revision), seed in SEEDS.items():
        server.add_revision(tenant, revision, seed=seed, adapter="either")
    return request.param, server


@pytest.fixture
async def clients(either: tuple[str, InferenceServer]) -> AsyncIterator[dict[str, AsyncClient]]:
    """An SDK client for each tenant."""
    _, server = either
    endpoints = Endpoints(inference=f"127.0.0.1:{server.port}")
    made = {tenant: AsyncClient(endpoints, server.token(tenant)) for tenant in TENANTS}
    yield made
    for client in made.values():
        await client.close()


def revision(tenant: str, name: str) -> str:
    return f"tenants/{tenant}/adapters/either/revisions/{name}"


def deployment(tenant: str) -> str:
    return f"tenants/{tenant}/deployments/either"


async def ask(client: AsyncClient, target: str, prompt: str) -> tuple[str, str]:
    """A greedy answer's adapter revision and text."""
    answer = await client.inference.chat(target, prompt, max_tokens=TOKENS, timeout_s=300)
    return answer.origin.adapter_revision, answer.text


async def test_everybody_gets_their_own_weights_in_company_as_alone_and_through_a_swap(
    either: tuple[str, InferenceServer], clients: dict[str, AsyncClient]
) -> None:
    engine, _ = either
    alone = {
        (name, prompt): (await ask(clients[tenant], name, prompt))[1]
        for tenant, name in [("east", BASE), *((tenant, revision(tenant, one)) for tenant, one in SEEDS)]
        for prompt in PROMPTS
    }
    for asked_for in PROMPTS:
        answers_to_it = [text for (_, prompt), text in alone.items() if prompt == asked_for]
        assert len(set(answers_to_it)) == len(answers_to_it)
    for tenant in TENANTS:
        await clients[tenant].deployments.deploy(deployment(tenant), adapter_revision=revision(tenant, "r1"))
    asked = [
        (tenant, target, prompt) for prompt in PROMPTS for tenant in TENANTS for target in (BASE, deployment(tenant))
    ] * 2
    answers = [asyncio.create_task(ask(clients[tenant], target, prompt)) for tenant, target, prompt in asked]
    await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
    await clients["east"].deployments.deploy(deployment("east"), adapter_revision=revision("east", "r2"))
    for (_, _, prompt), (origin, text) in zip(asked, await asyncio.gather(*answers), strict=True):
        assert text == alone[origin or BASE, prompt]
    assert (await ask(clients["east"], deployment("east"), PROMPTS[0]))[0] == revision("east", "r2")
    await clients["east"].deployments.rollback(deployment("east"))
    assert (await ask(clients["east"], deployment("east"), PROMPTS[0]))[0] == revision("east", "r1")
    seen[engine] = alone


async def test_an_adapter_without_effect_is_refused_at_its_probe(
    either: tuple[str, InferenceServer], clients: dict[str, AsyncClient]
) -> None:
    _, server = either
    idle = server.add_revision("east", "r1", seed=77, adapter="either-idle", strength=0.0)
    with pytest.raises(client_errors.FailedPreconditionError) as caught:
        await clients["east"].deployments.deploy(deployment("east"), adapter_revision=idle)
    assert caught.value.metadata["cause"] == "ADAPTER_HAS_NO_EFFECT"


async def test_a_cancelled_stream_returns_its_lease(
    either: tuple[str, InferenceServer], clients: dict[str, AsyncClient]
) -> None:
    _, server = either
    await clients["west"].deployments.deploy(deployment("west"), adapter_revision=revision("west", "r1"))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        request = api.GenerateStreamRequest(
            target=api.Target(deployment=deployment("west")), prompt="a", sampling=api.Sampling(max_tokens=400)
        )
        metadata = (("authorization", f"Bearer {server.token('west')}"),)
        call = InferenceServiceStub(channel).GenerateStream(request, metadata=metadata, timeout=60)
        await anext(aiter(call))
        call.cancel()

    async def is_released() -> bool:
        return (await clients["west"].deployments.get(deployment("west"))).live.lease_count == 0

    await until(is_released)


def test_both_engines_answered_the_same() -> None:
    if len(seen) < 2:
        pytest.skip("both engines must have answered first")
    assert seen["vllm"] == seen["transformers"]
