"""The server with the real engine: who answers, while everything changes."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator

import httpx
import openai
import psutil
import pytest
from luthier import AsyncClient, Endpoints
from luthier import errors as client_errors
from support.inference_server import BASE, InferenceServer

pytestmark = pytest.mark.e2e

TOKENS = 16
PROMPTS = [f"question number {number}" for number in range(5)]
TENANTS = ("north", "south")


@pytest.fixture(scope="session")
def revisions(server: InferenceServer) -> dict[str, list[str]]:
    """Three revisions for each of two tenants, all with answers of their own."""
    return {
        tenant: [server.add_revision(tenant, f"r{number}", seed=10 * index + number) for number in (1, 2, 3)]
        for index, tenant in enumerate(TENANTS, start=1)
    }


@pytest.fixture
async def clients(server: InferenceServer) -> AsyncIterator[dict[str, AsyncClient]]:
    """An SDK client for each tenant."""
    endpoints = Endpoints(inference=f"127.0.0.1:{server.port}")
    made = {tenant: AsyncClient(endpoints, server.token(tenant)) for tenant in TENANTS}
    yield made
    for client in made.values():
        await client.close()


def deployment(tenant: str, name: str = "style") -> str:
    """Both tenants call theirs by the same id."""
    return f"tenants/{tenant}/deployments/{name}"


async def ask(client: AsyncClient, target: str, prompt: str) -> tuple[str, str]:
    """A greedy answer's loaded adapter and text."""
    answer = await client.inference.chat(target, prompt, max_tokens=TOKENS, timeout_s=300)
    return answer.origin.loaded_adapter, answer.text


async def alone(clients: dict[str, AsyncClient], revisions: dict[str, list[str]]) -> dict[tuple[str, str], str]:
    """What each loaded adapter answers to each prompt when nobody else asks."""
    expected: dict[tuple[str, str], str] = {}
    targets = [(TENANTS[0], BASE), *((tenant, name) for tenant, names in revisions.items() for name in names)]
    for tenant, target in targets:
        for prompt in PROMPTS:
            loaded_adapter, text = await ask(clients[tenant], target, prompt)
            expected[loaded_adapter, prompt] = text
    return expected


async def test_base_and_two_tenants_answer_in_one_batch_as_they_do_alone(
    clients: dict[str, AsyncClient], revisions: dict[str, list[str]]
) -> None:
    expected = await alone(clients, revisions)
    assert len(set(expected.values())) == len(expected)
    for tenant in TENANTS:
        await clients[tenant].deployments.deploy(deployment(tenant), adapter_revision=revisions[tenant][0])
    asked = [
        (prompt, ask(clients[tenant], target, prompt))
        for prompt in PROMPTS
        for tenant, target in (("north", BASE), ("north", deployment("north")), ("south", deployment("south")))
    ]
    found = await asyncio.gather(*(call for _, call in asked))
    assert [text for _, text in found] == [
        expected[loaded_adapter, prompt] for (loaded_adapter, _), (prompt, _) in zip(found, asked, strict=True)
    ]
    assert len({loaded_adapter for loaded_adapter, _ in found}) == 3


async def test_200_mixed_requests_while_revisions_are_deployed_have_no_failure_and_no_wrong_answer(
    server: InferenceServer, clients: dict[str, AsyncClient], revisions: dict[str, list[str]]
) -> None:
    expected = await alone(clients, revisions)
    for tenant in TENANTS:
        await clients[tenant].deployments.deploy(deployment(tenant), adapter_revision=revisions[tenant][0])
    allowed = {tenant: {expected_of(expected, name, server) for name in revisions[tenant]} for tenant in TENANTS}
    finished = asyncio.Event()
    gate = asyncio.Semaphore(16)

    async def one(number: int) -> tuple[str, str, str, str]:
        who = ("north", "south", "base")[number % 3]
        tenant = TENANTS[number % 2] if who == "base" else who
        prompt = PROMPTS[number % len(PROMPTS)]
        async with gate:
            if number % 4 == 0 and who != "base":
                loaded_adapter, text = await ask_http(server, tenant, prompt)
            else:
                loaded_adapter, text = await ask(clients[tenant], BASE if who == "base" else deployment(who), prompt)
        return who, prompt, loaded_adapter, text

    async def redeploy() -> int:
        count = 0
        while not finished.is_set():
            for tenant in TENANTS:
                name = revisions[tenant][count % 3]
                await clients[tenant].deployments.deploy(deployment(tenant), adapter_revision=name)
            count += 1
        return count

    churn = asyncio.create_task(redeploy())
    found = await asyncio.gather(*(one(number) for number in range(200)), return_exceptions=True)
    finished.set()
    rounds = await churn
    failures = [one for one in found if isinstance(one, BaseException)]
    answers = [one for one in found if not isinstance(one, BaseException)]
    assert failures == []
    wrong = [one for one in answers if one[3] != expected[one[2], one[1]]]
    strayed = [one for one in answers if one[2] not in (allowed[one[0]] if one[0] != "base" else {"base"})]
    assert (wrong, strayed) == ([], [])
    assert rounds >= 2
    assert len({loaded_adapter for _, _, loaded_adapter, _ in answers}) >= 5


def expected_of(expected: dict[tuple[str, str], str], name: str, server: InferenceServer) -> str:
    """The loaded adapter that a revision's content gives."""
    loaded_adapter = f"g-{server.trainer.revisions[name].sha256[:20]}"
    assert (loaded_adapter, PROMPTS[0]) in expected
    return loaded_adapter


async def ask_http(server: InferenceServer, tenant: str, prompt: str) -> tuple[str, str]:
    """The same question through the OpenAI protocol."""
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{server.http_port}/v1", api_key=server.token(tenant), max_retries=0
    ) as client:
        response = await client.chat.completions.with_raw_response.create(
            model="style", messages=[{"role": "user", "content": prompt}], max_tokens=TOKENS, temperature=0
        )
        completion = response.parse()
    assert completion.model == "style"
    return response.headers["x-luthier-loaded-adapter"], completion.choices[0].message.content or ""


async def test_a_rollback_answers_with_the_weights_before(
    clients: dict[str, AsyncClient], revisions: dict[str, list[str]]
) -> None:
    client, name = clients["north"], deployment("north", "rolled")
    first = await client.deployments.deploy(name, adapter_revision=revisions["north"][0])
    before = await ask(client, name, PROMPTS[0])
    await client.deployments.deploy(name, adapter_revision=revisions["north"][1])
    during = await ask(client, name, PROMPTS[0])
    rolled = await client.deployments.rollback(name)
    assert await ask(client, name, PROMPTS[0]) == before != during
    assert (rolled.live.id, rolled.revision) == (first.live.id, 3)
    await client.deployments.delete(name)
    with pytest.raises(client_errors.NotFoundError):
        await ask(client, name, PROMPTS[0])


async def test_the_openai_client_completes_streams_and_lists(
    server: InferenceServer, clients: dict[str, AsyncClient], revisions: dict[str, list[str]]
) -> None:
    await clients["north"].deployments.deploy(deployment("north"), adapter_revision=revisions["north"][0])
    _, expected = await ask(clients["north"], deployment("north"), PROMPTS[0])
    messages = [{"role": "user", "content": PROMPTS[0]}]
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{server.http_port}/v1", api_key=server.token("north"), max_retries=0
    ) as client:
        models = [model.id async for model in client.models.list()]
        stream = await client.chat.completions.create(
            model="style",
            messages=messages,
            max_tokens=TOKENS,
            temperature=0,
            stream=True,  # type: ignore[arg-type]
        )
        deltas = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        plain = await client.completions.create(model=BASE, prompt="abc", max_tokens=4, temperature=0)
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="none", messages=messages)  # type: ignore[arg-type]
    assert {"style", BASE} <= set(models)
    assert "".join(deltas) == expected
    assert plain.model == BASE
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 4


async def test_a_killed_server_leaves_no_engine_behind_and_serves_the_same_after_its_restart(
    server: InferenceServer, clients: dict[str, AsyncClient], revisions: dict[str, list[str]]
) -> None:
    await clients["south"].deployments.deploy(deployment("south"), adapter_revision=revisions["south"][2])
    before = await ask(clients["south"], deployment("south"), PROMPTS[3])
    engine = server.engine_process()
    server.kill()
    psutil.wait_procs([engine], timeout=15)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
    await asyncio.to_thread(server.start)
    assert await ask(clients["south"], deployment("south"), PROMPTS[3]) == before
    async with httpx.AsyncClient() as client:
        health = await client.get(f"http://127.0.0.1:{server.http_port}/health")
    assert health.status_code == 200


def test_the_log_holds_no_text_of_users(server: InferenceServer) -> None:
    assert pathlib.Path(server.log).exists()
    assert not any(prompt in server.log.read_text() for prompt in PROMPTS)
