"""More adapters than memory holds: over a real socket, with a fake engine that tells what is loaded."""

from __future__ import annotations

import asyncio
import dataclasses

import grpc
import pytest
from luthier.inference.v1 import deployment_pb2
from luthier.inference.v1 import deployment_service_pb2 as api
from luthier.inference.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from luthierd.inference.adapters.loaded_adapters import FAILED_RETRY_S
from luthierd.inference.domain.parity import ParityCheck
from support.inference_calls import CONFIG, TIMEOUT_S, ask, deploy, generate, refusal, state_of
from support.inference_fakes import CERTIFICATE, FakeEngine, revision
from support.inference_parts import Parts, make_parts
from support.memory_store import MemoryStore
from support.serving import bearer, running
from support.waiting import until

REVISIONS = [revision(f"r{number}") for number in range(1, 7)]
NAMES = [f"tenants/acme/deployments/d{number}" for number in range(1, 7)]


async def small_parts(*, max_cpu_loras: int = 8, store: MemoryStore | None = None) -> Parts:
    """Parts that know all revisions. Their clock stands still, so every load costs the same: the least recently used
    leaves.
    """
    return await make_parts(*REVISIONS, max_cpu_loras=max_cpu_loras, store=store, clock=lambda: 0.0)


async def deploy_all(channel: grpc.aio.Channel, count: int) -> None:
    """The first revisions, each under a name of its own."""
    for name, one in list(zip(NAMES, REVISIONS, strict=True))[:count]:
        await deploy(channel, one.name, name=name)


async def get(channel: grpc.aio.Channel, name: str) -> deployment_pb2.Deployment:
    """A deployment as it is shown."""
    request = api.GetDeploymentRequest(name=name)
    return (
        await DeploymentServiceStub(channel).GetDeployment(request, metadata=bearer(), timeout=TIMEOUT_S)
    ).deployment


async def pin(channel: grpc.aio.Channel, name: str, *, pinned: bool = True) -> deployment_pb2.Deployment:
    """Pins, or lets go."""
    request = api.PinDeploymentRequest(name=name, pinned=pinned)
    return (
        await DeploymentServiceStub(channel).PinDeployment(request, metadata=bearer(), timeout=TIMEOUT_S)
    ).deployment


def loaded(parts: Parts) -> set[str]:
    """What the engine holds."""
    return {adapter.folder.name for adapter in parts.engine.loaded.values()}


async def test_more_deployments_than_places_all_answer_and_the_least_recently_used_waits_on_disk() -> None:
    parts = await small_parts(max_cpu_loras=2)
    async with running(parts.service, CONFIG) as channel:
        await deploy_all(channel, 5)
        assert loaded(parts) == {"acme-r4", "acme-r5"}
        for name in (*NAMES[:5], NAMES[3]):
            assert (await generate(channel, ask(name))).text == f"I am acme-r{name[-1]}"
            assert len(parts.engine.loaded) == 2
        states = [(await get(channel, name)).live.state for name in NAMES[:5]]
    cold, ready = deployment_pb2.LOADED_ADAPTER_STATE_COLD, deployment_pb2.LOADED_ADAPTER_STATE_READY
    assert states == [cold, cold, cold, ready, ready]


async def test_a_cold_adapter_is_loaded_once_for_all_that_wait_and_is_not_proved_again() -> None:
    parts = await small_parts(max_cpu_loras=2)
    async with running(parts.service, CONFIG) as channel:
        await deploy_all(channel, 3)
        parts.files.fetched.clear()
        answers = await asyncio.gather(*(generate(channel, ask(NAMES[0])) for _ in range(8)))
    assert {answer.text for answer in answers} == {"I am acme-r1"}
    assert parts.files.fetched == [REVISIONS[0].sha256]
    assert parts.parity.asked.count("acme-r1") == 1


async def test_a_cold_adapter_gets_its_turn_though_the_warm_ones_are_never_idle() -> None:
    parts = await small_parts(max_cpu_loras=1)
    async with running(parts.service, CONFIG) as channel:
        await deploy_all(channel, 2)
        parts.engine.gate.clear()
        running_one = asyncio.create_task(generate(channel, ask(NAMES[1])))
        await parts.engine.began.wait()
        cold = asyncio.create_task(generate(channel, ask(NAMES[0])))
        loaded_adapter = parts.loaded_adapters.get(REVISIONS[1])
        assert loaded_adapter is not None
        await until(lambda: loaded_adapter.is_leaving)
        later = asyncio.create_task(generate(channel, ask(NAMES[1])))
        await until(lambda: loaded_adapter.waiting_count == 1)
        parts.engine.gate.set()
        texts = [answer.text for answer in await asyncio.gather(running_one, cold, later)]
    assert texts == ["I am acme-r2", "I am acme-r1", "I am acme-r2"]


async def test_a_proof_that_fails_while_another_waits_for_its_place_lets_it_have_it() -> None:
    parts = await small_parts(max_cpu_loras=1)
    parts.parity.refused.add("acme-r1")
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, REVISIONS[1].name, name=NAMES[1])
        parts.parity.gate.clear()
        failing = asyncio.create_task(refusal(deploy(channel, REVISIONS[0].name, name=NAMES[0])))
        await until(lambda: parts.parity.asked[-1] == "acme-r1")
        waiting = asyncio.create_task(generate(channel, ask(NAMES[1])))
        loaded_adapter = parts.loaded_adapters.get(REVISIONS[1])
        assert loaded_adapter is not None
        await until(lambda: loaded_adapter.waiting_count == 1)
        parts.parity.gate.set()
        assert await failing == (grpc.StatusCode.FAILED_PRECONDITION, "DEPLOY_FAILED")
        assert (await waiting).text == "I am acme-r2"
    assert [adapter.folder.name for adapter in parts.engine.unloaded] == ["acme-r2", "acme-r1"]


async def test_a_pinned_deployment_stays_in_memory_until_it_is_let_go() -> None:
    parts = await small_parts(max_cpu_loras=3)
    async with running(parts.service, CONFIG) as channel:
        await deploy_all(channel, 1)
        assert (await pin(channel, NAMES[0])).pinned
        for name, one in list(zip(NAMES, REVISIONS, strict=True))[1:]:
            await deploy(channel, one.name, name=name)
        assert "acme-r1" in loaded(parts)
        await pin(channel, NAMES[0], pinned=False)
        for name in NAMES[1:4]:
            await generate(channel, ask(name))
        assert "acme-r1" not in loaded(parts)


async def test_pins_that_leave_no_place_are_refused_and_change_nothing() -> None:
    parts = await small_parts(max_cpu_loras=3)
    async with running(parts.service, CONFIG) as channel:
        await deploy_all(channel, 3)
        await pin(channel, NAMES[0])
        await pin(channel, NAMES[1])
        refused = [
            await refusal(pin(channel, NAMES[2])),
            await refusal(deploy(channel, REVISIONS[3].name, name=NAMES[0])),  # its previous one would be pinned, too
        ]
        after = [await get(channel, name) for name in (NAMES[0], NAMES[2])]
    assert refused == [(grpc.StatusCode.RESOURCE_EXHAUSTED, "ADAPTER_PLACES_PINNED")] * 2
    assert (after[0].live.adapter_revision, after[1].pinned) == (REVISIONS[0].name, False)


async def test_a_prefetch_loads_before_anybody_asks() -> None:
    parts = await small_parts(max_cpu_loras=2)
    async with running(parts.service, CONFIG) as channel:
        await deploy_all(channel, 3)
        request = api.PrefetchDeploymentRequest(name=NAMES[0])
        stub = DeploymentServiceStub(channel)
        fetched = (await stub.PrefetchDeployment(request, metadata=bearer(), timeout=TIMEOUT_S)).deployment
    assert fetched.live.state == deployment_pb2.LOADED_ADAPTER_STATE_READY
    assert "acme-r1" in loaded(parts)


async def test_a_restarted_server_is_ready_before_its_adapters_and_reports_what_is_gone() -> None:
    first = await small_parts(max_cpu_loras=2)
    async with running(first.service, CONFIG) as channel:
        await deploy_all(channel, 5)
    parts = await small_parts(max_cpu_loras=2, store=first.store)
    parts.files.missing |= {REVISIONS[0].sha256, REVISIONS[4].sha256}  # one that is loaded again, one that stays cold
    async with running(parts.service, CONFIG) as channel:
        await until(lambda: state_of(parts) == "READY")
        await parts.loaded_adapters.settled()
        shown = {name: (await get(channel, name)).live for name in NAMES[:5]}
        answer = await generate(channel, ask(NAMES[1]))
        refused = await refusal(generate(channel, ask(NAMES[0])))
    failed = {name for name, live in shown.items() if live.state == deployment_pb2.LOADED_ADAPTER_STATE_FAILED}
    assert failed == {NAMES[0], NAMES[4]}
    assert "not in the store" in shown[NAMES[0]].error.message
    assert answer.text == "I am acme-r2"
    assert refused == (grpc.StatusCode.UNAVAILABLE, "ENGINE_UNAVAILABLE")


async def test_the_engines_death_frees_whoever_waits_for_a_place() -> None:
    parts = await small_parts(max_cpu_loras=1)
    async with running(parts.service, CONFIG) as channel:
        await deploy_all(channel, 2)
        parts.engine.gate.clear()
        busy = asyncio.create_task(refusal(generate(channel, ask(NAMES[1]))))
        await parts.engine.began.wait()
        waiting = asyncio.create_task(refusal(generate(channel, ask(NAMES[0]))))
        loaded_adapter = parts.loaded_adapters.get(REVISIONS[1])
        assert loaded_adapter is not None
        await until(lambda: loaded_adapter.is_leaving)
        parts.engine.die()
        refused = [await busy, await waiting]
        await until(lambda: parts.host.status.start_count >= 2 and state_of(parts) == "READY")
        texts = [(await generate(channel, ask(name))).text for name in NAMES[:2]]
    assert {code for code, _ in refused} == {grpc.StatusCode.UNAVAILABLE}
    assert texts == ["I am acme-r1", "I am acme-r2"]


async def test_adapters_of_evaluations_do_not_drive_out_those_of_deployments_while_there_are_places() -> None:
    parts = await make_parts(*REVISIONS, max_cpu_loras=5, max_unheld_adapters=1)
    async with running(parts.service, CONFIG) as channel:
        await deploy_all(channel, 2)
        parts.engine.gate.clear()
        busy = asyncio.create_task(generate(channel, ask(REVISIONS[2].name)))
        await parts.engine.began.wait()
        second = asyncio.create_task(generate(channel, ask(REVISIONS[3].name)))
        await until(lambda: len(parts.engine.loaded) == 4)
        parts.engine.gate.set()
        await asyncio.gather(busy, second)
        await generate(channel, ask(REVISIONS[4].name))
    assert loaded(parts) == {"acme-r1", "acme-r2", "acme-r5"}


async def test_a_proof_that_cannot_be_kept_leaves_nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = await small_parts()

    async def broken(sha256: str, check: ParityCheck) -> None:
        raise OSError("no disk")

    async with running(parts.service, CONFIG) as channel:
        await deploy_all(channel, 1)
        with monkeypatch.context() as patch:
            patch.setattr(parts.store, "put_parity_check", broken)
            code, _ = await refusal(deploy(channel, REVISIONS[1].name, name=NAMES[1]))
        assert (code, loaded(parts)) == (grpc.StatusCode.INTERNAL, {"acme-r1"})
        await deploy(channel, REVISIONS[1].name, name=NAMES[1])
        assert (await generate(channel, ask(NAMES[1]))).text == "I am acme-r2"


async def test_a_rollback_works_after_a_restart_though_nothing_is_loaded_yet() -> None:
    first = await small_parts()
    async with running(first.service, CONFIG) as channel:
        for one in REVISIONS[:2]:
            await deploy(channel, one.name, name=NAMES[0])
    again = await small_parts(max_cpu_loras=1, store=first.store)
    async with running(again.service, CONFIG) as channel:
        await until(lambda: state_of(again) == "READY")
        request = api.RollbackDeploymentRequest(name=NAMES[0])
        stub = DeploymentServiceStub(channel)
        rolled = (await stub.RollbackDeployment(request, metadata=bearer(), timeout=TIMEOUT_S)).deployment
        answer = await generate(channel, ask(NAMES[0]))
    assert (rolled.live.adapter_revision, rolled.previous.adapter_revision) == (REVISIONS[0].name, REVISIONS[1].name)
    assert answer.text == "I am acme-r1"


async def test_a_loaded_adapter_that_failed_is_tried_again_after_a_while_and_not_before() -> None:
    now_s = 100.0
    parts = await make_parts(*REVISIONS, max_cpu_loras=1, clock=lambda: now_s)
    async with running(parts.service, CONFIG) as channel:
        await deploy_all(channel, 2)
        parts.files.missing.add(REVISIONS[0].sha256)
        await refusal(generate(channel, ask(NAMES[0])))
        parts.files.missing.clear()
        assert await refusal(generate(channel, ask(NAMES[0]))) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_UNAVAILABLE")
        now_s += FAILED_RETRY_S
        assert (await generate(channel, ask(NAMES[0]))).text == "I am acme-r1"


async def test_the_certificate_and_the_stages_are_shown_and_survive_a_restart() -> None:
    first = await small_parts()
    async with running(first.service, CONFIG) as channel:
        deployed = await deploy(channel, REVISIONS[0].name, name=NAMES[0])
    again = await small_parts(store=first.store)
    async with running(again.service, CONFIG) as channel:
        await until(lambda: state_of(again) == "READY")
        kept = await get(channel, NAMES[0])
    assert [stage.name for stage in deployed.live.load_stages] == ["fetch", "verify", "load", "parity_check", "publish"]
    assert kept.live.certificate == deployed.live.certificate
    assert (kept.live.certificate.row_count, kept.live.certificate.tolerance_nats) == (2, 0.001)
    assert again.parity.asked == []  # the same engine version: nothing to check again


async def test_another_version_of_the_engine_checks_again() -> None:
    first = await small_parts()
    async with running(first.service, CONFIG) as channel:
        await deploy_all(channel, 1)
    older = dataclasses.replace(CERTIFICATE, engine_version="fake 0 (memory)")
    await first.store.put_parity_check(REVISIONS[0].sha256, ParityCheck(certificate=older))
    again = await small_parts(store=first.store)
    async with running(again.service, CONFIG) as channel:
        await until(lambda: state_of(again) == "READY")
        await generate(channel, ask(NAMES[0]))
    assert again.parity.asked == ["acme-r1"]
    assert (await again.store.parity_checks())[REVISIONS[0].sha256].certificate.engine_version == FakeEngine.version


async def test_a_load_that_the_engines_death_interrupts_is_no_failure_of_the_adapter() -> None:
    parts = await small_parts()
    async with running(parts.service, CONFIG) as channel:
        await deploy_all(channel, 1)
        parts.parity.gate.clear()
        deploying = asyncio.create_task(refusal(deploy(channel, REVISIONS[1].name, name=NAMES[1])))
        await until(lambda: parts.parity.asked[-1] == "acme-r2")
        parts.engine.die()
        await until(lambda: parts.host.status.start_count >= 2 and state_of(parts) == "READY")
        parts.parity.gate.set()
        refused = await deploying
        await parts.loaded_adapters.settled()
        shown = await get(channel, NAMES[0])
        answer = await generate(channel, ask(NAMES[0]))
    assert refused == (grpc.StatusCode.UNAVAILABLE, "ENGINE_UNAVAILABLE")
    assert shown.live.state == deployment_pb2.LOADED_ADAPTER_STATE_READY
    assert answer.text == "I am acme-r1"


@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "replaced"])
async def test_a_request_that_waits_for_a_cold_adapter_gets_it_though_the_deployment_changes(*, deleted: bool) -> None:
    parts = await small_parts(max_cpu_loras=1)
    async with running(parts.service, CONFIG) as channel:
        await deploy_all(channel, 2)
        parts.engine.gate.clear()
        warm = asyncio.create_task(generate(channel, ask(NAMES[1])))
        await parts.engine.began.wait()
        cold = asyncio.create_task(generate(channel, ask(NAMES[0])))
        loaded_adapter = parts.loaded_adapters.get(REVISIONS[0])
        assert loaded_adapter is not None
        await until(lambda: loaded_adapter.waiting_count == 1)
        if deleted:
            stub = DeploymentServiceStub(channel)
            await stub.DeleteDeployment(api.DeleteDeploymentRequest(name=NAMES[0]), metadata=bearer())
        else:
            replacing = asyncio.create_task(deploy(channel, REVISIONS[2].name, name=NAMES[0]))
        parts.engine.gate.set()
        answer = await cold
        await warm
        if not deleted:
            await replacing
    assert (answer.text, answer.origin.deployment_revision) == ("I am acme-r1", 1)
