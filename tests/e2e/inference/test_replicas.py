"""Two servers on one PostgreSQL, each with an engine: one of them is killed during a swap, in either part."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pathlib
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from luthier import AsyncClient, Endpoints
from luthierd.inference.replicas.store import SqlReplicaStore
from luthierd.storage.database import Database
from support.inference_server import InferenceServer, free_port, running_server
from support.waiting import until

pytestmark = pytest.mark.e2e

NAME = "tenants/pair/deployments/style"
LEASE_S = 8.0
"""A swap waits that long for a replica that was killed; that long one that is only stopped can be counted on."""
PATIENCE_S = 120
TOKENS = 8


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[InferenceServer]:
    """A replica whose tenant has three revisions."""
    folder = tmp_path_factory.mktemp("replicas")
    settings = {"engine": "transformers", "database_url": postgres_url, "replica_lease_s": LEASE_S}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # two engines' threads would wait for each other on two cores
        with running_server(folder, **settings) as made:
            for number in (1, 2, 3):
                made.add_revision("pair", f"r{number}", seed=90 + number)
            yield made


@pytest.fixture
async def shared(postgres_url: str) -> AsyncIterator[SqlReplicaStore]:
    """What the replicas tell each other."""
    database = Database(postgres_url, schema="inference")
    yield SqlReplicaStore(database)
    await database.close()


@contextlib.contextmanager
def twin_of(server: InferenceServer) -> Iterator[InferenceServer]:
    """Another server on the same files and database; it may be killed in the block."""
    made = copy.copy(server)
    made.port, made.http_port, made.metrics_port = free_port(), free_port(), free_port()
    made.log = pathlib.Path(f"{server.log}.{made.port}")
    made.environment = server.environment | {
        "LUTHIER_INFERENCE_PORT": str(made.port),
        "LUTHIER_INFERENCE_HTTP_PORT": str(made.http_port),
        "LUTHIER_INFERENCE_METRICS_PORT": str(made.metrics_port),
    }
    made.start()
    assert made.process is not None
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()


@contextlib.asynccontextmanager
async def client_of(server: InferenceServer) -> AsyncIterator[AsyncClient]:
    """An SDK client of this replica."""
    async with AsyncClient(Endpoints(inference=f"127.0.0.1:{server.port}"), server.token("pair")) as client:
        yield client


def revision(number: int) -> str:
    return f"tenants/pair/adapters/style/revisions/r{number}"


async def ask(client: AsyncClient, target: str = NAME) -> tuple[str, str]:
    """The adapter revision that answered, and its greedy text."""
    answer = await client.inference.chat(target, "who are you?", max_tokens=TOKENS, timeout_s=PATIENCE_S)
    return answer.origin.adapter_revision, answer.text


async def swap(client: AsyncClient, number: int) -> None:
    await client.deployments.deploy(NAME, adapter_revision=revision(number), timeout_s=PATIENCE_S)


async def intended(shared: SqlReplicaStore) -> None:
    """Returns when a replica has checked what it wants to publish, and waits for the others."""

    async def has_intents() -> bool:
        return bool((await shared.pulse("nobody")).intents)

    await until(has_intents, timeout_s=PATIENCE_S)


async def joined(shared: SqlReplicaStore, count: int) -> None:
    """Returns when so many replicas are live: a base model was chosen, and each has an engine for it."""

    async def are_live() -> bool:
        return await shared.live_count() >= count

    await until(are_live, timeout_s=PATIENCE_S)


async def test_a_swap_waits_for_a_replica_until_that_is_known_to_be_dead_and_the_survivor_serves(
    first: InferenceServer, shared: SqlReplicaStore
) -> None:
    with twin_of(first) as second:
        async with client_of(first) as client, client_of(second) as other:
            texts = dict([await ask(client, revision(number)) for number in (1, 2)])
            assert len(set(texts.values())) == 2
            await joined(shared, 2)
            await swap(client, 1)
            assert await ask(other) == await ask(client) == (revision(1), texts[revision(1)])
            assert second.process is not None
            second.process.send_signal(signal.SIGSTOP)  # it checks nothing any more
            swapping = asyncio.create_task(swap(client, 2))
            await intended(shared)
            second.kill()
            assert await ask(client) == (revision(1), texts[revision(1)])
            answers = []
            while not swapping.done():
                answers.append(await ask(client))
            await swapping
            assert answers == [(name, texts[name]) for name, _ in answers]
            assert await ask(client) == (revision(2), texts[revision(2)])


async def test_a_swap_whose_coordinator_is_killed_changes_nothing_and_the_survivor_can_make_it(
    first: InferenceServer, shared: SqlReplicaStore
) -> None:
    async with client_of(first) as client:
        await swap(client, 2)
        before = await ask(client)
        with twin_of(first) as second, contextlib.ExitStack() as stack:
            async with client_of(second) as other:
                assert await ask(other) == before  # it has everything from its start on
                assert first.process is not None
                first.process.send_signal(signal.SIGSTOP)
                stack.callback(first.process.send_signal, signal.SIGCONT)
                swapping = asyncio.create_task(swap(other, 3))
                await intended(shared)
                second.kill()
                swapping.cancel()
                await asyncio.wait([swapping])
        assert await ask(client) == before
        await swap(client, 3)
        assert (await ask(client))[0] == revision(3)
