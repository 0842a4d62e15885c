"""Quotas and admission over real sockets, with a fake engine and a clock that the tests move."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2
from luthier.inference.v1 import deployment_service_pb2, inference_service_pb2, quota_pb2, tenant_service_pb2
from luthier.inference.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from luthier.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from luthier.inference.v1.tenant_service_pb2_grpc import TenantServiceStub
from luthierd.config import ServerConfig
from luthierd.inference.admission.quotas import Quotas
from luthierd.inference.config import InferenceConfig
from luthierd.inference.engine.engine import OpenAIApplication, OpenAICall
from luthierd.inference.http.server import HttpServer
from support.capture_parts import Clock
from support.inference_fakes import BASE, FakeEngine, revision
from support.inference_parts import Parts, make_parts
from support.serving import bearer, details, error_info, running
from support.waiting import until

TIMEOUT_S = 10
TENANT_SCOPES = ("inference.generate", "inference.deploy", "inference.evaluate")
QUOTA = "tenants/acme/quota"
SUPPORT = "tenants/acme/deployments/support"


@contextlib.asynccontextmanager
async def served(**options: Any) -> AsyncIterator[tuple[Parts, grpc.aio.Channel]]:
    parts = await make_parts(**options)
    async with running(parts.service, ServerConfig()) as channel:
        yield parts, channel


async def generate(
    channel: grpc.aio.Channel, tenant: str = "acme", *, prompt: str = "four", max_tokens: int = 6
) -> inference_service_pb2.GenerateResponse:
    request = inference_service_pb2.GenerateRequest(
        target=inference_service_pb2.Target(base_model=BASE.name),
        prompt=prompt,
        sampling=inference_service_pb2.Sampling(max_tokens=max_tokens),
    )
    return await InferenceServiceStub(channel).Generate(request, metadata=bearer(tenant), timeout=TIMEOUT_S)


async def deploy(channel: grpc.aio.Channel, adapter_revision: str, *, name: str = SUPPORT, **fields: Any) -> None:
    request = deployment_service_pb2.DeployAdapterRequest(name=name, adapter_revision=adapter_revision, **fields)
    await DeploymentServiceStub(channel).DeployAdapter(request, metadata=bearer(), timeout=TIMEOUT_S)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """Status and reason of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), error_info(caught.value).reason


async def update(channel: grpc.aio.Channel, tenant: str = "acme", **fields: Any) -> quota_pb2.Quota:
    request = tenant_service_pb2.UpdateQuotaRequest(name=f"tenants/{tenant}/quota", **fields)
    return (await TenantServiceStub(channel).UpdateQuota(request, metadata=bearer(tenant), timeout=TIMEOUT_S)).quota


async def set_limits(channel: grpc.aio.Channel, tenant: str = "acme", **limits: float) -> quota_pb2.Quota:
    return await update(channel, tenant, limits=quota_pb2.QuotaLimits(**limits))


async def show(channel: grpc.aio.Channel, tenant: str = "acme") -> quota_pb2.Quota:
    request = tenant_service_pb2.GetQuotaRequest(name=f"tenants/{tenant}/quota")
    return (await TenantServiceStub(channel).GetQuota(request, metadata=bearer(tenant), timeout=TIMEOUT_S)).quota


async def refused(call: Any) -> tuple[str, dict[str, str], float]:
    """Reason, metadata and RetryInfo's seconds of a call that must be RESOURCE_EXHAUSTED."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = error_details_pb2.RetryInfo()
    assert next(detail.Unpack(retry) for detail in details(caught.value).details if detail.Is(retry.DESCRIPTOR))
    info = error_info(caught.value)
    return info.reason, dict(info.metadata), retry.retry_delay.ToMilliseconds() / 1000


async def test_a_tenant_has_the_default_quota_until_another_is_set() -> None:
    async with served() as (_, channel):
        before = await show(channel)
        after = await set_limits(channel, requests_per_minute=5, weight=2.5)
        assert (await show(channel)).limits == after.limits
    assert not before.limits.ListFields()
    assert not before.HasField("update_time")
    assert before.effective_limits.HasField("requests_per_minute")
    assert (before.effective_limits.requests_per_minute, before.effective_limits.weight) == (0, 1.0)
    assert (after.effective_limits.requests_per_minute, after.effective_limits.weight) == (5, 2.5)
    assert before.etag != after.etag
    assert after.HasField("update_time")


async def test_a_limit_in_the_mask_that_is_not_set_goes_back_to_the_default() -> None:
    async with served() as (_, channel):
        await set_limits(channel, requests_per_minute=5, weight=2.5)
        mask = FieldMask(paths=["requests_per_minute", "tokens_per_minute"])
        after = await update(channel, limits=quota_pb2.QuotaLimits(tokens_per_minute=7), update_mask=mask)
    assert {field.name: value for field, value in after.limits.ListFields()} == {"tokens_per_minute": 7, "weight": 2.5}


async def test_a_quota_outlives_the_server() -> None:
    async with served() as (parts, channel):
        await set_limits(channel, tokens_per_minute=77)
    async with served(store=parts.store) as (_, channel):
        assert (await show(channel)).limits.tokens_per_minute == 77


async def test_two_changes_that_do_not_know_of_each_other_do_not_both_hold() -> None:
    async with served() as (_, channel):
        etag = (await show(channel)).etag
        await update(channel, limits=quota_pb2.QuotaLimits(weight=2), etag=etag)
        second = refusal(update(channel, limits=quota_pb2.QuotaLimits(weight=3), etag=etag))
        assert await second == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
        assert (await show(channel)).limits.weight == 2


async def test_a_repeated_change_is_made_once() -> None:
    request_id = "0f0e9b2a-6f5f-4a57-9d0e-0a5ef52cb5a1"
    async with served() as (_, channel):
        first = await update(channel, limits=quota_pb2.QuotaLimits(weight=2), request_id=request_id)
        again = await update(channel, limits=quota_pb2.QuotaLimits(weight=2), request_id=request_id)
    assert first == again


@pytest.mark.parametrize(
    ("limits", "mask", "field"),
    [
        ({"weight": 0.0}, [], "limits.weight"),
        ({"weight": math.nan}, [], "limits.weight"),
        ({"requests_per_minute": -1}, [], "limits.requests_per_minute"),
        ({}, [], "limits"),
        ({}, ["name"], "update_mask"),
    ],
)
async def test_limits_out_of_their_range_are_refused_by_field(limits: Any, mask: list[str], field: str) -> None:
    async with served() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await update(channel, limits=quota_pb2.QuotaLimits(**limits), update_mask=FieldMask(paths=mask))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(caught.value).metadata["field"] == field


async def test_only_an_operator_changes_a_quota_and_nobody_sees_another_tenant_s() -> None:
    async with served() as (_, channel):
        stub = TenantServiceStub(channel)
        request = tenant_service_pb2.UpdateQuotaRequest(name=QUOTA, limits=quota_pb2.QuotaLimits(weight=2))
        own = stub.UpdateQuota(request, metadata=bearer(scopes=TENANT_SCOPES), timeout=TIMEOUT_S)
        assert await refusal(own) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
        for call in (
            stub.GetQuota(tenant_service_pb2.GetQuotaRequest(name=QUOTA), metadata=bearer("beta"), timeout=TIMEOUT_S),
            stub.UpdateQuota(request, metadata=bearer("beta"), timeout=TIMEOUT_S),
        ):
            assert await refusal(call) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


async def listed(channel: grpc.aio.Channel, page_token: str = "", **options: Any) -> Any:
    request = tenant_service_pb2.ListQuotasRequest(page_size=2, page_token=page_token)
    return await TenantServiceStub(channel).ListQuotas(request, metadata=bearer(**options), timeout=TIMEOUT_S)


async def test_the_operator_lists_the_tenants_that_have_limits_or_deployments_page_by_page() -> None:
    async with served() as (parts, channel):
        parts.trainer.add(revision("r1"))
        await deploy(channel, revision("r1").name)
        await set_limits(channel, "zeta", weight=2)
        await set_limits(channel, "beta", requests_per_minute=5)
        first = await listed(channel)
        rest = await listed(channel, first.next_page_token)
        as_tenant = await refusal(listed(channel, scopes=TENANT_SCOPES))
    assert [one.name.split("/")[1] for one in (*first.quotas, *rest.quotas)] == ["acme", "beta", "zeta"]
    assert (len(first.quotas), rest.next_page_token) == (2, "")
    assert (first.quotas[0].usage.deployed_adapters, first.quotas[1].effective_limits.requests_per_minute) == (1, 5)
    assert {one.replica_count for one in first.quotas} == {1}
    assert as_tenant == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


async def test_a_quota_says_how_many_replicas_allow_it_each() -> None:
    async def five() -> int:
        return 5

    parts = await make_parts()
    quotas = Quotas(store=parts.store, defaults=parts.quotas.limits("nobody"), count_replicas=five)
    await quotas.read()
    assert quotas.replica_count == 5


async def test_requests_beyond_the_minute_s_are_refused_until_the_time_that_the_refusal_names() -> None:
    clock = Clock()
    async with served(clock=clock) as (_, channel):
        await set_limits(channel, requests_per_minute=2)
        await generate(channel)
        await generate(channel)
        reason, metadata, retry_s = await refused(generate(channel))
        assert (reason, metadata["quota"], retry_s) == ("QUOTA_EXCEEDED", "requests_per_minute", 30.0)
        assert (await show(channel)).usage.requests_in_minute == 2
        await generate(channel, "beta")
        clock.now += retry_s - 0.1
        await refused(generate(channel))
        clock.now += 0.1
        await generate(channel)


async def test_tokens_count_by_estimate_when_a_request_comes_and_by_use_when_it_ends() -> None:
    clock = Clock()
    async with served(clock=clock) as (parts, channel):
        await set_limits(channel, tokens_per_minute=60)
        await generate(channel, prompt="x" * 20, max_tokens=40)  # estimate 60, used 20 and three words
        assert (await show(channel)).usage.tokens_in_minute == 23
        reason, metadata, retry_s = await refused(generate(channel, prompt="x" * 20, max_tokens=20))
        assert (reason, metadata["quota"], metadata["limit"]) == ("QUOTA_EXCEEDED", "tokens_per_minute", "60")
        assert retry_s == pytest.approx(3.0)
        await generate(channel, prompt="x" * 17, max_tokens=20)
        assert parts.engine.aborted == 0


async def test_a_cancelled_request_pays_for_what_it_used() -> None:
    async with served(clock=Clock()) as (parts, channel):
        await set_limits(channel, tokens_per_minute=1000)
        await generate(channel)
        parts.engine.gate.clear()
        parts.engine.began.clear()
        call = asyncio.create_task(generate(channel, prompt="x" * 10, max_tokens=50))
        await parts.engine.began.wait()
        assert (await show(channel)).usage.tokens_in_minute == 7 + 60
        call.cancel()
        await until(lambda: parts.admission.load("acme").running_count == 0)
        assert (await show(channel)).usage.tokens_in_minute == 7 + 12


async def test_concurrent_requests_beyond_the_quota_are_refused_at_once() -> None:
    async with served() as (parts, channel):
        await set_limits(channel, concurrent_requests=2)
        await generate(channel)
        parts.engine.gate.clear()
        two = [asyncio.create_task(generate(channel)) for _ in range(2)]
        await until(lambda: len(parts.engine.requests) == 3)
        reason, metadata, retry_s = await refused(generate(channel))
        assert (reason, metadata["quota"]) == ("QUOTA_EXCEEDED", "concurrent_requests")
        assert retry_s > 0
        parts.engine.gate.set()
        await asyncio.gather(*two)
        await generate(channel)


async def test_one_tenant_cannot_fill_the_queue() -> None:
    async with served(max_in_flight=4, max_in_flight_per_tenant=3, max_num_seqs=1) as (parts, channel):
        await generate(channel)
        parts.engine.gate.clear()
        mine = [asyncio.create_task(generate(channel)) for _ in range(3)]
        await until(lambda: parts.admission.load("acme").waiting_count == 2)
        assert (await refused(generate(channel)))[0] == "TENANT_QUEUE_FULL"
        theirs = asyncio.create_task(generate(channel, "beta"))
        await until(lambda: parts.admission.load("beta").waiting_count == 1)
        assert (await refused(generate(channel, "gamma")))[0] == "QUEUE_FULL"
        parts.engine.gate.set()
        await asyncio.gather(*mine, theirs)


async def test_the_engine_gets_no_more_than_its_batch_and_tenants_take_turns() -> None:
    async with served(max_num_seqs=1) as (parts, channel):
        await generate(channel)
        parts.engine.gate.clear()
        order: list[str] = []

        async def ask(tenant: str) -> None:
            await generate(channel, tenant)
            order.append(tenant)

        flood = [asyncio.create_task(ask("acme")) for _ in range(6)]
        await until(lambda: parts.admission.load("acme").waiting_count == 5)
        assert len(parts.engine.requests) == 2
        late = asyncio.create_task(ask("beta"))
        await until(lambda: parts.admission.load("beta").waiting_count == 1)
        parts.engine.gate.set()
        await asyncio.gather(*flood, late)
    assert order.index("beta") <= 1


async def test_a_waiter_whose_caller_gives_up_leaves_the_queue_and_takes_no_slot() -> None:
    async with served(max_num_seqs=1) as (parts, channel):
        await generate(channel)
        parts.engine.gate.clear()
        first = asyncio.create_task(generate(channel))
        await until(lambda: len(parts.engine.requests) == 2)
        waiting = asyncio.create_task(generate(channel, "beta"))
        await until(lambda: parts.admission.load("beta").waiting_count == 1)
        waiting.cancel()
        await until(lambda: parts.admission.load("beta").waiting_count == 0)
        parts.engine.gate.set()
        await first
        await generate(channel, "beta")
        assert len(parts.engine.requests) == 3


async def test_a_waiter_whose_time_is_over_is_told_so() -> None:
    async with served(max_num_seqs=1) as (parts, channel):
        await generate(channel)
        parts.engine.gate.clear()
        first = asyncio.create_task(generate(channel))
        await until(lambda: len(parts.engine.requests) == 2)
        request = inference_service_pb2.GenerateRequest(
            target=inference_service_pb2.Target(base_model=BASE.name), prompt="x"
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await InferenceServiceStub(channel).Generate(request, metadata=bearer("beta"), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: parts.admission.load("beta").waiting_count == 0)
        parts.engine.gate.set()
        await first


async def test_adapters_beyond_the_quota_are_refused_and_replacing_one_is_not() -> None:
    revisions = [revision(f"r{number}") for number in range(3)]
    parts = await make_parts(*revisions)
    async with running(parts.service, ServerConfig()) as channel:
        await set_limits(channel, deployed_adapters=1)
        await deploy(channel, revisions[0].name)
        await deploy(channel, revisions[0].name, name=f"{SUPPORT}-b")
        reason, metadata, _ = await refused(deploy(channel, revisions[1].name, name=f"{SUPPORT}-c"))
        assert (reason, metadata["limit"]) == ("ADAPTER_QUOTA_EXCEEDED", "1")
        assert (await refused(deploy(channel, revisions[1].name, stage_only=True)))[0] == "ADAPTER_QUOTA_EXCEEDED"
        assert (await show(channel)).usage.deployed_adapters == 1
        await set_limits(channel, deployed_adapters=2)
        await deploy(channel, revisions[1].name)
        await deploy(channel, revisions[2].name)
        assert (await show(channel)).usage.deployed_adapters == 2


async def test_two_deploys_at_a_time_cannot_both_be_the_last_one() -> None:
    parts = await make_parts(revision("r1"), revision("r2"))
    async with running(parts.service, ServerConfig()) as channel:
        await set_limits(channel, deployed_adapters=1)
        found = await asyncio.gather(
            deploy(channel, revision("r1").name, name=f"{SUPPORT}-a"),
            deploy(channel, revision("r2").name, name=f"{SUPPORT}-b"),
            return_exceptions=True,
        )
    assert sum(isinstance(one, grpc.aio.AioRpcError) for one in found) == 1


def three_words(engine: FakeEngine) -> OpenAIApplication:
    """The engine's application, as far as quotas see it."""

    async def application(call: OpenAICall, send: Any) -> None:
        async with call.take_slot(prompt_token_count=1, max_answer_token_count=4, slot_count=1) as slot:
            slot.answer_token_count = 3
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    return application


async def test_over_http_a_quota_is_429_with_the_seconds_to_wait_rounded_up() -> None:
    clock = Clock()
    parts = await make_parts(application=three_words, clock=clock)
    http = HttpServer(parts.front, InferenceConfig(grace_s=2))
    tasks = [asyncio.create_task(parts.host.run()), asyncio.create_task(http.run())]
    await parts.host.engine_for(BASE)
    await parts.quotas.update(QUOTA, {"requests_per_minute": 7})
    body = {"model": BASE.name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http.port}") as client:

            async def ask() -> httpx.Response:
                return await client.post("/v1/chat/completions", json=body, headers=dict(bearer()))

            answered = [(await ask()).status_code for _ in range(7)]
            refusal = await ask()
            await parts.quotas.update(QUOTA, {"requests_per_minute": 0, "tokens_per_minute": 10})
            small = await ask()
            body["max_tokens"] = 50
            large = await ask()
    finally:
        await http.close()
        for task in tasks:
            task.cancel()
    assert answered == [200] * 7
    assert (refusal.status_code, refusal.headers["retry-after"]) == (429, "9")
    assert refusal.json()["error"]["code"] == "QUOTA_EXCEEDED"
    assert (small.status_code, large.status_code) == (200, 429)
