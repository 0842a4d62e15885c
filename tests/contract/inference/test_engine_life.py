"""The life of the engine: its start, its death and its restart."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from luthier.inference.v1 import deployment_service_pb2 as deployment_api
from luthier.inference.v1 import engine_service_pb2 as engine_api
from luthier.inference.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from luthier.inference.v1.engine_service_pb2_grpc import EngineServiceStub
from luthierd.inference.domain.engine import EngineState
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
    parts = await make_parts(R1)
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
    parts = await make_parts()
    parts.unstartable.add(BASE.sha256)
    async with running(parts.service, CONFIG) as channel:
        refused = await refusal(generate(channel, ask(BASE.name)))
        stub = EngineServiceStub(channel)
        failed = (await stub.GetEngine(engine_api.GetEngineRequest(), metadata=bearer())).engine
        answer = await generate(channel, ask(OTHER_BASE.name))
    assert refused == (grpc.StatusCode.UNAVAILABLE, "ENGINE_UNAVAILABLE")
    assert (failed.state, failed.error.message) == (engine_api.ENGINE_STATE_FAILED, "vLLM could not start")
    assert answer.origin.base_model == OTHER_BASE.name


async def test_a_start_is_logged_with_the_time_of_each_of_its_stages(caplog: pytest.LogCaptureFixture) -> None:
    parts = await make_parts()
    async with running(parts.service, CONFIG):
        with caplog.at_level("INFO", logger="luthierd.inference.engine.host"):
            await parts.host.want(BASE)
            await until(lambda: parts.host.status.state is EngineState.READY)
    ready = next(one for one in caplog.records if one.message == "engine ready")
    assert list(ready.stages_s) == ["fetch", "wake", "replay"]
    assert ready.stages_s["wake"] == parts.engine.start_stages[0].duration_s
