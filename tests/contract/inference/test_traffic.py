"""Canaries and shadow traffic over a real socket, with a fake engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import pytest
import sqlalchemy as sa
from luthier.inference.v1 import deployment_pb2
from luthier.inference.v1 import deployment_service_pb2 as api
from luthier.inference.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from luthierd.inference import metrics
from luthierd.inference.admission.fair_queue import Request
from luthierd.inference.completions.mirror import Copy, Mirror
from luthierd.inference.domain.completion import Sampling
from luthierd.inference.engine.engine import EngineRequest
from support.inference_calls import CONFIG, R1, R2, SUPPORT, TIMEOUT_S, ask, deploy, generate, refusal, state_of
from support.inference_fakes import revision
from support.inference_parts import Parts, make_parts
from support.serving import bearer, running
from support.waiting import until


async def set_traffic(
    channel: grpc.aio.Channel, weights: dict[str, int] | None = None, *, mirror: str = "", **fields: object
) -> deployment_pb2.Deployment:
    """Splits, and returns the deployment."""
    shares = [deployment_pb2.TrafficShare(adapter_revision=name, weight=w) for name, w in (weights or {}).items()]
    request = api.SetTrafficRequest(name=SUPPORT, traffic=shares, mirror_revision=mirror, **fields)
    call = DeploymentServiceStub(channel).SetTraffic(request, metadata=bearer(), timeout=TIMEOUT_S)
    return (await call).deployment


async def texts(channel: grpc.aio.Channel, count: int, *, session_id: str = "") -> Counter[str]:
    """How often each revision answers."""
    answers = [await generate(channel, ask(session_id=session_id)) for _ in range(count)]
    return Counter(answer.text.removeprefix("I am acme-") for answer in answers)


def outcomes() -> dict[str, float]:
    """How copies ended so far."""
    return {name: metrics.mirrored.labels(name)._value.get() for name in ("same", "different", "dropped", "failed")}


async def staged(channel: grpc.aio.Channel) -> deployment_pb2.Deployment:
    """R1 live, R2 the candidate."""
    await deploy(channel, R1.name)
    return await deploy(channel, R2.name, stage_only=True)


async def test_a_canary_gets_its_share_and_a_session_stays_with_who_answered_it() -> None:
    parts = await make_parts(R1, R2)
    async with running(parts.service, CONFIG) as channel:
        before = await staged(channel)
        split = await set_traffic(channel, {R1.name: 3, R2.name: 1})
        drawn = await texts(channel, 80)
        sessions = [await texts(channel, 3, session_id=f"s{number}") for number in range(20)]
        revision_ = (await generate(channel)).origin.deployment_revision
    assert set(drawn) == {"r1", "r2"}
    assert drawn["r1"] > drawn["r2"]
    assert all(len(counts) == 1 for counts in sessions)
    assert {next(iter(counts)) for counts in sessions} == {"r1", "r2"}
    assert [(one.adapter_revision, one.weight) for one in split.traffic] == [(R1.name, 3), (R2.name, 1)]
    assert revision_ == split.revision == before.revision + 1


@pytest.mark.parametrize("change", ["promote", "rollback", "deploy", "reset"])
async def test_every_change_of_what_is_live_sends_all_requests_there(change: str) -> None:
    parts = await make_parts(R1, R2)
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R2.name)
        await staged(channel)
        await set_traffic(channel, {R1.name: 1, R2.name: 1}, mirror=R2.name)
        stub = DeploymentServiceStub(channel)
        if change == "promote":
            request = api.PromoteDeploymentRequest(name=SUPPORT)
            after = (await stub.PromoteDeployment(request, metadata=bearer())).deployment
        elif change == "rollback":
            request = api.RollbackDeploymentRequest(name=SUPPORT)
            after = (await stub.RollbackDeployment(request, metadata=bearer())).deployment
        elif change == "deploy":
            after = await deploy(channel, R2.name)
        else:
            after = await set_traffic(channel)
        counts = await texts(channel, 12)
    assert set(counts) == {after.live.adapter_revision.rpartition("/")[2]}
    assert (len(after.traffic), after.mirror_revision) == (0, "")


async def test_a_split_survives_a_restart() -> None:
    first = await make_parts(R1, R2)
    async with running(first.service, CONFIG) as channel:
        await staged(channel)
        await set_traffic(channel, {R1.name: 1, R2.name: 1})
        before = {f"s{n}": next(iter(await texts(channel, 1, session_id=f"s{n}"))) for n in range(12)}
    again = await make_parts(R1, R2, store=first.store)
    async with running(again.service, CONFIG) as channel:
        await until(lambda: state_of(again) == "READY")
        assert {one: next(iter(await texts(channel, 1, session_id=one))) for one in before} == before


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"weights": {R1.name: 0}}, "INVALID_ARGUMENT INVALID_ARGUMENT"),
        ({"weights": {R1.name: -1}}, "INVALID_ARGUMENT INVALID_ARGUMENT"),
        ({"weights": {"r1": 1}}, "INVALID_ARGUMENT INVALID_ARGUMENT"),
        ({"weights": {revision("r9").name: 1}}, "FAILED_PRECONDITION REVISION_NOT_HELD"),
        ({"mirror": revision("r9").name}, "FAILED_PRECONDITION REVISION_NOT_HELD"),
        ({"weights": {revision("r1", tenant="beta").name: 1}}, "PERMISSION_DENIED PERMISSION_DENIED"),
        ({"mirror": revision("r1", tenant="beta").name}, "PERMISSION_DENIED PERMISSION_DENIED"),
        ({"weights": {R2.name: 1}, "etag": "stale"}, "ABORTED ETAG_MISMATCH"),
    ],
    ids=["zero", "negative", "form", "not-held", "mirror-not-held", "other-tenant", "mirror-other-tenant", "stale"],
)
async def test_a_bad_split_is_refused_and_changes_nothing(fields: dict[str, object], expected: str) -> None:
    parts = await make_parts(R1, R2)
    async with running(parts.service, CONFIG) as channel:
        before = await staged(channel)
        code, reason = await refusal(set_traffic(channel, **fields))  # type: ignore[arg-type]
        request = api.GetDeploymentRequest(name=SUPPORT)
        after = (await DeploymentServiceStub(channel).GetDeployment(request, metadata=bearer())).deployment
    assert f"{code.name} {reason}" == expected
    assert after.etag == before.etag


async def mirrored(parts: Parts, channel: grpc.aio.Channel) -> None:
    """R1 answers, R2 answers copies."""
    await staged(channel)
    await set_traffic(channel, mirror=R2.name)


async def test_a_mirror_answers_a_copy_after_the_caller_and_both_are_recorded() -> None:
    parts = await make_parts(R1, R2)
    before = outcomes()
    async with running(parts.service, CONFIG) as channel:
        await mirrored(parts, channel)
        answer = await generate(channel)
        await parts.mirror.answered()
        await parts.capture.capturing.responses.flush()
        async with parts.capture.database.read() as connection:
            rows = (await connection.execute(sa.text("SELECT adapter_revision, mirror_of FROM responses"))).all()
    asked = [request.adapter.folder.name for request in parts.engine.requests if request.adapter]
    assert (answer.text, asked) == ("I am acme-r1", ["acme-r1", "acme-r2"])
    assert outcomes()["different"] == before["different"] + 1
    assert {row.adapter_revision: row.mirror_of for row in rows} == {R1.name: "", R2.name: answer.response_id}


async def test_a_mirror_that_fails_is_counted_and_nobody_notices() -> None:
    parts = await make_parts(R1, R2)
    before = outcomes()
    async with running(parts.service, CONFIG) as channel:
        await mirrored(parts, channel)
        loaded_adapter = parts.loaded_adapters.get(R2)
        assert loaded_adapter is not None
        await parts.loaded_adapters._evict(loaded_adapter)
        parts.files.missing.add(R2.sha256)
        assert (await generate(channel)).text == "I am acme-r1"
        await parts.mirror.answered()
    assert outcomes()["failed"] == before["failed"] + 1


class FakeAdmission:
    """A batch with a slot for every request; the test sets `waiting_count`."""

    def __init__(self) -> None:
        self.waiting_count = 0

    @contextlib.asynccontextmanager
    async def slot_for(self, request: Request) -> AsyncIterator[None]:
        yield


async def test_copies_yield_to_whoever_waits_and_to_a_full_queue() -> None:
    parts, admission = await make_parts(R1, R2), FakeAdmission()
    before = outcomes()
    mirror = Mirror(
        loaded_adapters=parts.loaded_adapters,
        host=parts.host,
        admission=admission,
        recorder=parts.capture.capturing.responses,
        clock=lambda: 0.0,
        max_waiting=2,
    )
    copy = Copy(
        revision=R2,
        tenant="acme",
        target=SUPPORT,
        deployment_revision=1,
        prompt="x",
        request=EngineRequest(
            request_id="r-1", prompt_ids=(1,), sampling=Sampling(), adapter=None, cache_salt="luthier:test"
        ),
        answer="I am acme-r2",
    )
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R2.name)
        for _ in range(3):
            mirror.offer(copy)
        assert outcomes()["dropped"] == before["dropped"] + 1  # the queue has two places
        task = asyncio.create_task(mirror.run())
        await mirror.answered()
        assert outcomes()["same"] == before["same"] + 2
        parts.engine.gate.clear()
        parts.engine.began.clear()
        mirror.offer(copy)
        await parts.engine.began.wait()
        admission.waiting_count = 1
        mirror.offer(copy)
        parts.engine.gate.set()
        await mirror.answered()
        task.cancel()
    assert outcomes()["dropped"] == before["dropped"] + 3
    assert len(parts.engine.requests) == 3
