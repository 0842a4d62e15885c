"""Several servers on one database, with fake engines: a swap is published when all have checked it, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from luthier.inference.v1 import deployment_pb2, inference_service_pb2
from luthier.inference.v1 import deployment_service_pb2 as deployment_api
from luthier.inference.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from luthier.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from luthierd.config import ServerConfig
from luthierd.inference.admission.quotas import Quotas
from luthierd.inference.build import VERSIONS
from luthierd.inference.deployments.store import SqlStore
from luthierd.inference.domain.deployment import Deployment
from luthierd.inference.domain.engine import EngineState
from luthierd.inference.domain.errors import EtagMismatchError, ReplicaLeaseLostError
from luthierd.inference.replicas.store import Barrier, Intent, SqlReplicaStore
from luthierd.storage.database import Database
from luthierd.storage.database_faults import DatabaseUnavailableError
from support.inference_fakes import BASE, revision
from support.inference_parts import Parts, Replica, make_parts
from support.serving import bearer, error_info, running
from support.waiting import until

SUPPORT = "tenants/acme/deployments/support"
QUOTA = "tenants/acme/quota"
R1, R2, R3 = revision("r1"), revision("r2"), revision("r3")
TIMES = {"replica_lease_s": 2.0, "replica_poll_s": 0.02, "replica_check_s": 20.0}
TIMEOUT_S = 20
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def shared(database_url: str, schema: str) -> AsyncIterator[Database]:
    """A fresh database with all tables."""
    database = Database(database_url, schema=schema)
    await database.migrate(VERSIONS)
    yield database
    await database.close()


@contextlib.asynccontextmanager
async def replica(name: str, database: Database, **times: float) -> AsyncIterator[Server]:
    """A server; with an engine as soon as a base model is chosen."""
    parts = await make_parts(
        R1, R2, R3, base_model=None, store=SqlStore(database), replica=Replica(name, database), **TIMES | times
    )
    async with running(parts.service, ServerConfig()) as channel:
        yield Server(parts, channel)


class Server:
    """A replica's parts, and calls to it."""

    def __init__(self, parts: Parts, channel: grpc.aio.Channel) -> None:
        self.parts = parts
        self._channel = channel
        self._deployments, self._inference = DeploymentServiceStub(channel), InferenceServiceStub(channel)

    async def deploy(self, name: str, **fields: object) -> deployment_pb2.Deployment:
        request = deployment_api.DeployAdapterRequest(name=SUPPORT, adapter_revision=name, **fields)
        response = await self._deployments.DeployAdapter(request, metadata=bearer(), timeout=TIMEOUT_S)
        return response.deployment

    async def roll_back(self) -> None:
        request = deployment_api.RollbackDeploymentRequest(name=SUPPORT)
        await self._deployments.RollbackDeployment(request, metadata=bearer(), timeout=TIMEOUT_S)

    async def delete(self) -> None:
        request = deployment_api.DeleteDeploymentRequest(name=SUPPORT)
        await self._deployments.DeleteDeployment(request, metadata=bearer(), timeout=TIMEOUT_S)

    async def ask(self) -> tuple[str, str]:
        """The loaded adapter that answered, and its text."""
        request = inference_service_pb2.GenerateRequest(
            target=inference_service_pb2.Target(deployment=SUPPORT), prompt="who are you?"
        )
        answer = await self._inference.Generate(request, metadata=bearer(), timeout=TIMEOUT_S)
        return answer.origin.loaded_adapter, answer.text

    async def health(self, stack: contextlib.AsyncExitStack) -> AsyncIterator[int]:
        """What the server says of itself, each time that it changes."""
        call = health_pb2_grpc.HealthStub(self._channel).Watch(health_pb2.HealthCheckRequest())
        stack.callback(call.cancel)
        return (answer.status async for answer in call)

    async def ready(self) -> None:
        """Returns when its engine is there, with the base model that was chosen on whichever replica."""
        await until(lambda: self.parts.host.status.state is EngineState.READY)


@pytest.fixture
async def pair(shared: Database) -> AsyncIterator[tuple[Server, Server]]:
    """Two live replicas with R1 deployed."""
    async with replica("a", shared) as a, replica("b", shared) as b:
        await a.parts.host.use(BASE)
        await a.ready()
        await b.ready()
        await a.deploy(R1.name)
        yield a, b


async def says(health: AsyncIterator[int], status: int) -> None:
    """Returns when the server says this of itself."""
    async with asyncio.timeout(TIMEOUT_S):
        while await anext(health) != status:
            pass


async def refusal(call: object) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """Status, reason and metadata of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    info = error_info(caught.value)
    return caught.value.code(), info.reason, dict(info.metadata)


async def test_what_one_replica_was_told_all_answer_as_soon_as_the_call_returns(pair: tuple[Server, Server]) -> None:
    a, b = pair
    assert await a.ask() == await b.ask() == (R1.loaded_adapter, "I am acme-r1")
    await b.deploy(R2.name)
    assert await a.ask() == await b.ask() == (R2.loaded_adapter, "I am acme-r2")
    await a.roll_back()
    assert await a.ask() == await b.ask() == (R1.loaded_adapter, "I am acme-r1")
    await a.delete()
    assert (await refusal(b.ask()))[0] is grpc.StatusCode.NOT_FOUND


async def test_a_replica_that_is_ready_counts_whatever_it_said_before_its_engine_was_there(
    shared: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave, is_leaving, is_ready, has_left = SqlReplicaStore.leave, *(asyncio.Event() for _ in range(3))

    async def late(self: SqlReplicaStore, name: str) -> None:
        is_leaving.set()
        with contextlib.suppress(TimeoutError):  # a replica that waits for this before it joins is not ready by then
            await asyncio.wait_for(is_ready.wait(), 0.3)
        await leave(self, name)
        has_left.set()

    monkeypatch.setattr(SqlReplicaStore, "leave", late)
    async with replica("a", shared) as a:
        await is_leaving.wait()
        await a.parts.host.use(BASE)
        await a.ready()
        is_ready.set()
        await has_left.wait()
        assert await SqlReplicaStore(shared).live_count() == 1


async def test_a_swap_waits_for_the_check_of_every_replica_and_no_request_sees_it_before(
    pair: tuple[Server, Server],
) -> None:
    a, b = pair
    b.parts.parity.gate.clear()
    swap = asyncio.create_task(a.deploy(R2.name))
    await until(lambda: "acme-r2" in b.parts.parity.asked)
    assert await a.ask() == await b.ask() == (R1.loaded_adapter, "I am acme-r1")
    assert not swap.done()
    b.parts.parity.gate.set()
    await swap
    assert await a.ask() == await b.ask() == (R2.loaded_adapter, "I am acme-r2")


async def test_a_replica_that_refuses_fails_the_swap_by_its_name_and_nothing_changes(
    pair: tuple[Server, Server],
) -> None:
    a, b = pair
    b.parts.parity.refused.add("acme-r2")
    code, reason, metadata = await refusal(a.deploy(R2.name))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REPLICA_REFUSED")
    assert (metadata["replica"], metadata["cause"]) == ("b", "ADAPTER_HAS_NO_EFFECT")
    assert await a.ask() == await b.ask() == (R1.loaded_adapter, "I am acme-r1")
    for server in pair:
        loaded = server.parts.engine.loaded
        await until(lambda loaded=loaded: [one.folder.name for one in loaded.values()] == ["acme-r1"])
    await a.deploy(R3.name)
    assert await a.ask() == await b.ask() == (R3.loaded_adapter, "I am acme-r3")


async def test_a_replica_that_died_during_a_swap_counts_until_its_lease_ends(
    pair: tuple[Server, Server], shared: Database
) -> None:
    a, b = pair
    store = SqlReplicaStore(shared)
    assert await store.join("ghost", (await store.desired()).version, lease_s=0.3)
    await a.deploy(R2.name)
    assert not await store.renew("ghost", lease_s=1.0)
    assert await a.ask() == await b.ask() == (R2.loaded_adapter, "I am acme-r2")


async def test_a_replica_whose_engine_died_does_not_hold_up_a_swap_and_comes_back_with_it(
    pair: tuple[Server, Server],
) -> None:
    a, b = pair
    b.parts.parity.gate.clear()
    swap = asyncio.create_task(a.deploy(R2.name))
    await until(lambda: "acme-r2" in b.parts.parity.asked)
    b.parts.unstartable.add(BASE.sha256)
    b.parts.engine.die()
    await swap
    assert await a.ask() == (R2.loaded_adapter, "I am acme-r2")
    b.parts.parity.gate.set()
    b.parts.unstartable.clear()
    await b.parts.host.use(BASE)
    await b.ready()
    assert await b.ask() == (R2.loaded_adapter, "I am acme-r2")


async def test_a_replica_that_starts_later_has_everything_before_it_counts(shared: Database) -> None:
    async with replica("a", shared) as a:
        await a.parts.host.use(BASE)
        await a.deploy(R1.name)
        async with replica("b", shared) as b:
            await b.ready()
            assert await b.ask() == await a.ask()
            await b.deploy(R2.name)
        await a.deploy(R3.name)  # b left: nobody waits for it
        assert await a.ask() == (R3.loaded_adapter, "I am acme-r3")


async def test_a_replica_whose_engine_is_not_there_yet_sends_callers_to_the_others(shared: Database) -> None:
    async with replica("a", shared) as a, replica("b", shared) as b, contextlib.AsyncExitStack() as stack:
        b.parts.can_start.clear()
        health = await b.health(stack)
        await says(health, SERVING)  # no base model is chosen
        await a.parts.host.use(BASE)
        await says(health, NOT_SERVING)
        assert (await refusal(b.ask()))[:2] == (grpc.StatusCode.UNAVAILABLE, "ENGINE_UNAVAILABLE")
        await a.deploy(R1.name)
        b.parts.can_start.set()
        await says(health, SERVING)
        assert await b.ask() == await a.ask() == (R1.loaded_adapter, "I am acme-r1")


async def test_of_two_swaps_at_the_same_time_on_two_replicas_one_wins_and_both_follow_it(
    pair: tuple[Server, Server],
) -> None:
    a, b = pair
    done = await asyncio.gather(a.deploy(R2.name), b.deploy(R3.name), return_exceptions=True)
    lost = [one for one in done if isinstance(one, BaseException)]
    assert len(lost) == 1
    assert isinstance(lost[0], grpc.aio.AioRpcError)
    assert error_info(lost[0]).reason == "ETAG_MISMATCH"
    winner = R2 if isinstance(done[1], BaseException) else R3
    assert (await a.ask())[0] == (await b.ask())[0] == winner.loaded_adapter


async def test_replicas_that_are_too_slow_are_named_and_nothing_changes(shared: Database) -> None:
    async with replica("a", shared, replica_lease_s=5.0, replica_check_s=0.1) as a, replica("b", shared) as b:
        await a.parts.host.use(BASE)
        await b.ready()
        b.parts.parity.gate.clear()
        code, reason, metadata = await refusal(a.deploy(R1.name))
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "REPLICAS_TOO_SLOW")
        assert metadata["replicas"] == "b"
        assert (await refusal(b.ask()))[0] is grpc.StatusCode.NOT_FOUND
        b.parts.parity.gate.set()


async def test_a_replica_cut_off_from_the_database_answers_on_says_not_serving_and_comes_back(
    shared: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(*_: object, **__: object) -> None:
        raise DatabaseUnavailableError("the shared one", ConnectionRefusedError())

    async with replica("a", shared, replica_lease_s=1.5) as a, contextlib.AsyncExitStack() as stack:
        await a.parts.host.use(BASE)
        await a.deploy(R1.name)
        health = await a.health(stack)
        assert await anext(health) == SERVING
        with monkeypatch.context() as patch:
            for method in ("renew", "pulse", "open_intent"):
                patch.setattr(SqlReplicaStore, method, unreachable)
            assert await anext(health) == NOT_SERVING
            assert (await a.ask())[0] == R1.loaded_adapter
            assert (await refusal(a.deploy(R2.name)))[:2] == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
        assert await anext(health) == SERVING
        await a.deploy(R2.name)
        assert (await a.ask())[0] == R2.loaded_adapter


async def test_the_store_counts_who_has_a_lease_and_the_newest_version(shared: Database) -> None:
    store = SqlReplicaStore(shared)
    new = Deployment(name=SUPPORT, create_time=1.0, update_time=1.0).route(R1, 2.0)
    intent = Intent("1", SUPPORT, "a", (R1,))
    assert await store.join("a", 0, lease_s=60.0)
    assert await store.join("b", 0, lease_s=60.0)
    assert await store.join("dead", 0, lease_s=-1.0)
    assert await store.live_count() == 2
    await store.open_intent(intent)
    assert (await store.pulse("b")).intents == (intent,)
    assert (await store.pulse("a")).intents == ()
    assert await store.publish(intent, lambda direct: direct.create(new)) == Barrier(missing=("b",))
    await store.report(intent, "b", None)
    assert await store.publish(intent, lambda direct: direct.create(new)) == Barrier(version=1)
    assert (await store.desired()).deployments == (new,)
    assert await store.behind("a", 1) == ("b",)
    await store.follow("b", 1)
    assert await store.behind("a", 1) == ()
    assert not await store.join("late", 0, lease_s=60.0)
    assert not await store.renew("dead", lease_s=60.0)
    assert await store.renew("b", lease_s=60.0)


async def test_a_coordinator_without_a_lease_publishes_nothing_and_its_intent_is_passed_over(
    shared: Database,
) -> None:
    store = SqlReplicaStore(shared)
    new = Deployment(name=SUPPORT, create_time=1.0, update_time=1.0).route(R1, 2.0)
    intent = Intent("1", SUPPORT, "dead", (R1,))
    assert await store.join("dead", 0, lease_s=-1.0)
    await store.open_intent(intent)
    assert (await store.pulse("b")).intents == ()
    with pytest.raises(ReplicaLeaseLostError):
        await store.publish(intent, lambda direct: direct.create(new))
    assert (await store.desired()).deployments == ()


async def test_quotas_that_another_replica_changed_hold_after_a_read() -> None:
    parts = await make_parts()
    other = Quotas(store=parts.store, defaults=parts.quotas.limits("nobody"))
    await other.update(QUOTA, {"weight": 9})
    assert parts.quotas.limits("acme").weight == 1
    await parts.quotas.read()
    assert parts.quotas.limits("acme").weight == 9


async def test_a_change_against_what_another_replica_set_is_aborted_once_and_then_made() -> None:
    parts = await make_parts()
    other = Quotas(store=parts.store, defaults=parts.quotas.limits("nobody"))
    await other.update(QUOTA, {"weight": 9})
    with pytest.raises(EtagMismatchError):
        await parts.quotas.update(QUOTA, {"requests_per_minute": 5})
    quota = await parts.quotas.update(QUOTA, {"requests_per_minute": 5})
    assert quota.own == {"weight": 9, "requests_per_minute": 5}
