"""The life of the engine: its start, its death and its restart."""

from __future__ import annotations

import asyncio
import pathlib
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from luthier.inference.v1 import deployment_service_pb2 as deployment_api
from luthier.inference.v1 import engine_service_pb2 as engine_api
from luthier.inference.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from luthier.inference.v1.engine_service_pb2_grpc import EngineServiceStub
from luthier.services import OPERATOR_SCOPES, SCOPES
from luthierd.errors import UnavailableError
from luthierd.inference.domain.deployment import BaseModel
from luthierd.inference.domain.engine import EngineState
from luthierd.inference.engine import host
from support.inference_calls import (
    CONFIG,
    R1,
    R2,
    SUPPORT,
    TIMEOUT_S,
    ask,
    deploy,
    generate,
    refusal,
    state_of,
)
from support.inference_fakes import BASE, OTHER_BASE
from support.inference_parts import make_parts
from support.serving import bearer, running
from support.waiting import until


async def test_the_engine_is_started_once_and_shows_what_it_holds() -> None:
    parts = await make_parts(R1, base_model=None)
    async with running(parts.service, CONFIG) as channel:
        stub = EngineServiceStub(channel)
        stopped = (await stub.GetEngine(engine_api.GetEngineRequest(), metadata=bearer())).engine
        for _ in range(2):
            await stub.StartEngine(engine_api.StartEngineRequest(base_model=BASE.name), metadata=bearer())
        await deploy(channel, R1.name)
        ready = (await stub.GetEngine(engine_api.GetEngineRequest(), metadata=bearer())).engine
    assert stopped.state == engine_api.ENGINE_STATE_STOPPED
    assert (ready.state, ready.base_model, ready.loaded_adapter_count, ready.start_count) == (
        engine_api.ENGINE_STATE_READY,
        BASE.name,
        1,
        1,
    )
    assert ready.start_duration.ToNanoseconds() > 0
    assert len(parts.engines) == 1


async def test_an_engine_that_dies_fails_its_calls_and_comes_back_with_everything_loaded() -> None:
    parts = await make_parts(R1, R2)
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R1.name)
        await deploy(channel, R2.name)
        parts.engine.gate.clear()
        doomed = asyncio.create_task(generate(channel))
        await parts.engine.began.wait()
        parts.engine.die()
        lost = await refusal(doomed)
        await until(lambda: parts.host.status.start_count >= 2)
        answer = await generate(channel)
        rolled = await DeploymentServiceStub(channel).RollbackDeployment(
            deployment_api.RollbackDeploymentRequest(name=SUPPORT), metadata=bearer(), timeout=TIMEOUT_S
        )
    assert lost == (grpc.StatusCode.UNAVAILABLE, "ENGINE_DIED")
    assert (answer.text, rolled.deployment.live.adapter_revision) == ("I am acme-r2", R1.name)


async def test_an_engine_that_keeps_dying_is_given_up_and_health_says_so() -> None:
    parts = await make_parts(R1)
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R1.name)
        for count in (1, 2, 3):
            await until(lambda count=count: parts.host.status.start_count >= count and state_of(parts) == "READY")
            parts.engine.die()
        await until(lambda: state_of(parts) == "FAILED")
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        refused = await refusal(generate(channel))
    assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert refused == (grpc.StatusCode.UNAVAILABLE, "ENGINE_UNAVAILABLE")


async def test_a_base_model_that_cannot_start_does_not_stand_in_the_way_of_another() -> None:
    parts = await make_parts(base_model=None)
    parts.unstartable.add(BASE.sha256)
    async with running(parts.service, CONFIG) as channel:
        await start_engine(channel, BASE.name)
        refused = await refusal(generate(channel, ask(BASE.name)))
        failed = await get_engine(channel)
        await start_engine(channel, OTHER_BASE.name)
        answer = await generate(channel, ask(OTHER_BASE.name))
    assert refused == (grpc.StatusCode.UNAVAILABLE, "ENGINE_UNAVAILABLE")
    assert (failed.state, failed.error.message) == (engine_api.ENGINE_STATE_FAILED, "vLLM could not start")
    assert answer.origin.base_model == OTHER_BASE.name


async def start_engine(channel: grpc.aio.Channel, base_model: str, **fields: Any) -> engine_api.Engine:
    request = engine_api.StartEngineRequest(base_model=base_model, **fields)
    return (await EngineServiceStub(channel).StartEngine(request, metadata=bearer(), timeout=TIMEOUT_S)).engine


async def get_engine(channel: grpc.aio.Channel) -> engine_api.Engine:
    return (await EngineServiceStub(channel).GetEngine(engine_api.GetEngineRequest(), metadata=bearer())).engine


async def test_no_request_chooses_the_base_model() -> None:
    parts = await make_parts(R1, base_model=None)
    async with running(parts.service, CONFIG) as channel:
        refusals = [
            await refusal(generate(channel, ask(BASE.name))),
            await refusal(generate(channel, ask(R1.name))),
            await refusal(deploy(channel, R1.name)),
        ]
    assert set(refusals) == {(grpc.StatusCode.FAILED_PRECONDITION, "ENGINE_HAS_NO_BASE_MODEL")}
    assert await parts.store.chosen_base_model() is None


async def test_a_tenant_without_the_operators_scope_cannot_choose_the_base_model() -> None:
    parts = await make_parts(base_model=None)
    tenants = bearer(scopes=tuple(scope for scope in SCOPES if scope not in OPERATOR_SCOPES))
    async with running(parts.service, CONFIG) as channel:
        request = engine_api.StartEngineRequest(base_model=BASE.name)
        refused = await refusal(EngineServiceStub(channel).StartEngine(request, metadata=tenants, timeout=TIMEOUT_S))
    assert refused == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


async def test_a_base_model_with_deployments_is_replaced_only_by_force_and_comes_back_with_them() -> None:
    parts = await make_parts(R1)
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R1.name)
        refused = await refusal(start_engine(channel, OTHER_BASE.name))
        await start_engine(channel, OTHER_BASE.name, force=True)
        other = await generate(channel, ask(OTHER_BASE.name))
        stranded = await refusal(generate(channel))
        await start_engine(channel, BASE.name)
        await until(lambda: state_of(parts) == "READY")
        back = await generate(channel)
    assert refused == (grpc.StatusCode.FAILED_PRECONDITION, "BASE_MODEL_HAS_DEPLOYMENTS")
    assert other.origin.base_model == OTHER_BASE.name
    assert stranded == (grpc.StatusCode.FAILED_PRECONDITION, "ENGINE_HOLDS_OTHER_BASE_MODEL")
    assert back.text == "I am acme-r1"
    assert [engine.is_closed for engine in parts.engines[:2]] == [True, True]


async def test_calls_in_flight_end_before_the_base_model_changes_and_new_ones_are_told_to_wait() -> None:
    parts = await make_parts(R1)
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R1.name)
        old = parts.engine
        old.gate.clear()
        running_call = asyncio.create_task(generate(channel))
        await old.began.wait()
        draining = await start_engine(channel, OTHER_BASE.name, force=True)
        told = await refusal(generate(channel))
        assert not old.is_closed
        old.gate.set()
        answer = await running_call
        await until(lambda: old.is_closed and state_of(parts) == "READY")
    assert draining.state == engine_api.ENGINE_STATE_DRAINING
    assert told == (grpc.StatusCode.UNAVAILABLE, "ENGINE_UNAVAILABLE")
    assert answer.text == "I am acme-r1"


async def test_a_call_that_outlasts_the_drain_does_not_hold_up_the_change() -> None:
    parts = await make_parts()
    async with running(parts.service, CONFIG) as channel:
        await generate(channel, ask(BASE.name))
        old = parts.engine
        old.gate.clear()
        stuck = asyncio.create_task(generate(channel, ask(BASE.name)))
        await until(lambda: len(old.requests) > 1)
        await start_engine(channel, OTHER_BASE.name, drain_timeout={"nanos": 1})
        await until(lambda: old.is_closed and state_of(parts) == "READY")
        old.die()
        lost = await refusal(stuck)
    assert lost == (grpc.StatusCode.UNAVAILABLE, "ENGINE_DIED")


async def test_the_last_choice_wins_while_an_engine_starts() -> None:
    parts = await make_parts()
    parts.can_start.clear()
    async with running(parts.service, CONFIG) as channel:
        await start_engine(channel, OTHER_BASE.name)
        parts.can_start.set()
        answer = await generate(channel, ask(OTHER_BASE.name))
        found = await get_engine(channel)
    assert answer.origin.base_model == found.base_model == OTHER_BASE.name


@pytest.mark.parametrize("drain", [{"seconds": -1}, {"seconds": 601}, {"seconds": 2**62}])
async def test_a_drain_time_out_of_range_is_refused(drain: dict[str, int]) -> None:
    parts = await make_parts()
    async with running(parts.service, CONFIG) as channel:
        refused = await refusal(start_engine(channel, OTHER_BASE.name, drain_timeout=drain))
    assert refused[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_engine_whose_model_files_are_away_is_started_once_they_are_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "START_RETRY_S", 0.01)
    parts = await make_parts()
    files, attempts = parts.files, []

    async def away(base_model: BaseModel) -> pathlib.Path:
        attempts.append(base_model)
        if len(attempts) < 3:
            raise UnavailableError("the blob store is away")
        return pathlib.Path("/nowhere")

    monkeypatch.setattr(files, "base_model_folder", away)
    async with running(parts.service, CONFIG) as channel:
        answer = await generate(channel, ask(BASE.name))
    assert answer.origin.base_model == BASE.name
    assert len(attempts) == 3


async def test_a_start_is_logged_with_the_time_of_each_of_its_stages(caplog: pytest.LogCaptureFixture) -> None:
    parts = await make_parts()
    with caplog.at_level("INFO", logger="luthierd.inference.engine.host"):
        async with running(parts.service, CONFIG):
            await until(lambda: parts.host.status.state is EngineState.READY)
    ready = next(one for one in caplog.records if one.message == "engine ready")
    assert list(ready.stages_s) == ["fetch", "wake", "replay"]
    assert ready.stages_s["wake"] == parts.engine.start_stages[0].duration_s
