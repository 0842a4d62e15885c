"""What happens around every call, whatever its shape: over real sockets, through the real `serve()`."""

from __future__ import annotations

import asyncio
import errno
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
import prometheus_client
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from luthier.curation.v1 import dataset_service_pb2 as pb
from luthier.curation.v1 import dataset_service_pb2_grpc as rpc
from luthierd.config import ServerConfig
from luthierd.errors import (
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from support.scripted import CLIENT_STREAM, SERVER_STREAM, SHAPES, UNARY, call, scripted
from support.serving import bearer, details, error_info, running, serving

every_shape = pytest.mark.parametrize("shape", SHAPES)
LogEvents = Callable[[], list[dict[str, Any]]]


class DatasetMissingError(NotFoundError):
    reason = "TEST_DATASET_MISSING"


class QueueFullError(ResourceExhaustedError):
    reason = "TEST_QUEUE_FULL"


class StillCuratingError(FailedPreconditionError):
    reason = "TEST_STILL_CURATING"


def raising(error: Exception) -> Any:
    async def act(_context: object) -> None:
        raise error

    return act


async def failure(service: Any, shape: str, **options: Any) -> grpc.aio.AioRpcError:
    """The error of one call to `service`."""
    async with running(service, ServerConfig()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, shape, **options)
    return caught.value


def detail(error: grpc.aio.AioRpcError, kind: type[Message]) -> Any:
    found = kind()
    assert [True for packed in details(error).details if packed.Unpack(found)] == [True], f"one {kind.__name__}"
    return found


def trailing(ended: Any) -> dict[str, Any]:
    return dict(ended)


# --- request id ---


@every_shape
async def test_the_callers_request_id_comes_back(shape: str, log_events: LogEvents) -> None:
    async with running(scripted(), ServerConfig()) as channel:
        ended = await call(channel, shape, metadata=(*bearer(), ("x-request-id", "from-the-caller")))
        assert trailing(await ended.trailing_metadata())["x-request-id"] == "from-the-caller"
    assert [event["request_id"] for event in log_events() if event["event"] == "rpc"] == ["from-the-caller"]


@every_shape
async def test_a_request_id_is_made_where_none_is_given(shape: str) -> None:
    async with running(scripted(), ServerConfig()) as channel:
        ids = [trailing(await (await call(channel, shape)).trailing_metadata())["x-request-id"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert all(len(made) == 32 for made in ids)


@pytest.mark.parametrize("given", ["x" * 65, ""])
async def test_a_request_id_that_is_not_fit_for_a_log_is_replaced(given: str) -> None:
    async with running(scripted(), ServerConfig()) as channel:
        ended = await call(channel, UNARY, metadata=(*bearer(), ("x-request-id", given)))
        assert len(trailing(await ended.trailing_metadata())["x-request-id"]) == 32


@every_shape
@pytest.mark.parametrize("error", [DatasetMissingError("gone"), ValueError("boom")])
async def test_a_failed_call_has_its_request_id_in_the_trailer(shape: str, error: Exception) -> None:
    failed = await failure(scripted(raising(error)), shape, metadata=(*bearer(), ("x-request-id", "mine")))
    assert trailing(failed.trailing_metadata())["x-request-id"] == "mine"


@every_shape
async def test_a_refused_call_has_a_request_id_too(shape: str) -> None:
    failed = await failure(scripted(), shape, metadata=())
    assert len(trailing(failed.trailing_metadata())["x-request-id"]) == 32


# --- errors ---


@every_shape
async def test_an_error_arrives_with_its_status_and_reason(shape: str) -> None:
    error = DatasetMissingError("there is no d", metadata={"dataset": "d"})
    failed = await failure(scripted(raising(error)), shape)
    assert failed.code() is grpc.StatusCode.NOT_FOUND
    assert failed.details() == "there is no d"
    assert error_info(failed) == error_details_pb2.ErrorInfo(
        reason="TEST_DATASET_MISSING", domain="curation.luthier.dev", metadata={"dataset": "d"}
    )


@every_shape
async def test_a_bad_request_names_its_fields(shape: str) -> None:
    violations = [FieldViolation("recipe.seed", "is negative"), FieldViolation("name", "is empty")]
    failed = await failure(scripted(raising(InvalidArgumentError("two faults", violations=violations))), shape)
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = detail(failed, error_details_pb2.BadRequest).field_violations
    assert [(v.field, v.description) for v in found] == [("recipe.seed", "is negative"), ("name", "is empty")]


@every_shape
async def test_a_full_queue_says_when_to_come_back(shape: str) -> None:
    failed = await failure(scripted(raising(QueueFullError("full", retry_after_s=2.5))), shape)
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(failed, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 2500


async def test_a_part_that_is_away_says_when_to_come_back() -> None:
    failed = await failure(scripted(raising(UnavailableError("the engine starts"))), UNARY)
    assert failed.code() is grpc.StatusCode.UNAVAILABLE
    assert detail(failed, error_details_pb2.RetryInfo).retry_delay.seconds == 1


@every_shape
async def test_a_wrong_state_is_a_precondition_failure(shape: str) -> None:
    failed = await failure(scripted(raising(StillCuratingError("r1 is not ready"))), shape)
    assert failed.code() is grpc.StatusCode.FAILED_PRECONDITION
    (violation,) = detail(failed, error_details_pb2.PreconditionFailure).violations
    assert (violation.type, violation.description) == ("TEST_STILL_CURATING", "r1 is not ready")


@every_shape
async def test_a_full_disk_is_named_whoever_met_it(shape: str) -> None:
    failed = await failure(scripted(raising(OSError(errno.ENOSPC, "No space left on device", "/home/x"))), shape)
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (error_info(failed).reason, error_info(failed).metadata["location"]) == ("DISK_FULL", "/home/x")


@every_shape
async def test_an_unknown_exception_keeps_its_text_in_the_log(shape: str, log_events: LogEvents) -> None:
    failed = await failure(scripted(raising(ValueError("password is hunter2"))), shape)
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(failed)
    error_id = error_info(failed).metadata["error_id"]
    assert error_id in (failed.details() or "")
    (logged,) = [event for event in log_events() if event.get("error_id") == error_id]
    assert "ValueError: password is hunter2" in logged["trace"]


@every_shape
async def test_a_handler_may_abort_by_itself(shape: str, log_events: LogEvents) -> None:
    async def abort(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "past the end")

    failed = await failure(scripted(abort), shape)
    assert (failed.code(), failed.details()) == (grpc.StatusCode.OUT_OF_RANGE, "past the end")
    assert [event["code"] for event in log_events() if event["event"] == "rpc"] == ["OUT_OF_RANGE"]


# --- deadlines ---


async def never(_context: object) -> None:
    await asyncio.Event().wait()


@every_shape
async def test_a_call_ends_at_its_methods_limit_whatever_the_caller_allows(shape: str) -> None:
    failed = await failure(scripted(never, limits_s={shape: 0.05}), shape, timeout=30)
    assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error_info(failed).reason == "DEADLINE_EXCEEDED"
    assert error_info(failed).metadata == {"limit_s": "0.05"}


async def test_limit_0_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthierd.rpc.contract.DEFAULT_LIMIT_S", 0.01)
    goes_on = asyncio.Event()

    async def wait(_context: object) -> None:
        asyncio.get_running_loop().call_later(0.05, goes_on.set)
        await goes_on.wait()

    async with running(scripted(wait, limits_s={UNARY: 0}), ServerConfig()) as channel:
        await call(channel, UNARY)


@every_shape
async def test_a_time_out_inside_the_handler_is_not_the_calls_own(shape: str) -> None:
    failed = await failure(scripted(raising(TimeoutError("a peer did not answer"))), shape)
    assert failed.code() is grpc.StatusCode.INTERNAL


@every_shape
async def test_a_call_that_the_caller_gives_up_is_cancelled_and_logged_so(shape: str, log_events: LogEvents) -> None:
    ended = asyncio.Event()

    async def act(_context: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with running(scripted(act, limits_s={shape: 0}), ServerConfig()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, shape, timeout=0.2, metadata=(*bearer(), ("x-request-id", "impatient")))
        await asyncio.wait_for(ended.wait(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    (line,) = [event for event in log_events() if event["event"] == "rpc"]
    assert (line["code"], line["request_id"]) == ("CANCELLED", "impatient")


async def test_a_stream_that_is_dropped_between_two_messages_cleans_up(log_events: LogEvents) -> None:
    """The server is then busy sending: nothing in the handler is awaited that could be cancelled."""
    ended = asyncio.Event()

    async def chatter(_request: object, _context: object) -> Any:
        try:
            while True:
                yield pb.WatchDatasetRevisionResponse()
        finally:
            ended.set()

    service = scripted(behaviors={SERVER_STREAM: chatter})
    async with running(service, ServerConfig()) as channel:
        request = pb.WatchDatasetRevisionRequest(name="tenants/acme/datasets/d/revisions/r1")
        stream = rpc.DatasetServiceStub(channel).WatchDatasetRevision(
            request, metadata=(*bearer(), ("x-request-id", "dropped"))
        )
        await stream.read()
        stream.cancel()
        await asyncio.wait_for(ended.wait(), timeout=5)
    (line,) = [event for event in log_events() if event["event"] == "rpc"]
    assert (line["code"], line["request_id"]) == ("CANCELLED", "dropped")


# --- logs and metrics ---


@every_shape
async def test_a_call_is_one_line_without_user_text(
    shape: str, log_events: LogEvents, log_text: Callable[[], str]
) -> None:
    async def echo(requests: Any, _context: object) -> pb.ImportDatasetResponse:
        async for _ in requests:
            pass
        return pb.ImportDatasetResponse()

    async with running(scripted(behaviors={CLIENT_STREAM: echo}), ServerConfig()) as channel:
        await call(channel, shape)
        stub = rpc.DatasetServiceStub(channel)
        text = pb.ImportDatasetRequest(data=b"my private diary")
        await stub.ImportDataset(iter([text]), metadata=bearer())
    lines = [event for event in log_events() if event["event"] == "rpc"]
    assert [line["method"] for line in lines] == [shape, CLIENT_STREAM]
    assert all(line["code"] == "OK" and line["elapsed_ms"] >= 0 and line["level"] == "INFO" for line in lines)
    assert "diary" not in log_text()
    assert "Bearer" not in log_text()


@every_shape
@pytest.mark.parametrize(("error", "code"), [(None, "OK"), (DatasetMissingError("gone"), "NOT_FOUND")])
async def test_a_call_is_measured_with_its_status(shape: str, error: Exception | None, code: str) -> None:
    kind = {UNARY: "unary_unary", SERVER_STREAM: "unary_stream", CLIENT_STREAM: "stream_unary"}[shape]
    labels = {"service": "curation", "method": shape, "kind": kind, "code": code}

    def count() -> float:
        return prometheus_client.REGISTRY.get_sample_value("luthier_rpc_seconds_count", labels) or 0.0

    before = count()
    async with running(scripted(raising(error)) if error else scripted(), ServerConfig()) as channel:
        if error:
            with pytest.raises(grpc.aio.AioRpcError):
                await call(channel, shape)
        else:
            await call(channel, shape)
    assert count() == before + 1
    assert prometheus_client.REGISTRY.get_sample_value("luthier_rpc_in_flight", {"service": "curation"}) == 0


async def test_the_metrics_page_shows_calls_and_stream_messages() -> None:
    async with serving(scripted(), ServerConfig()) as bound, grpc.aio.insecure_channel(bound.address) as channel:
        await call(channel, SERVER_STREAM)
        page = await asyncio.to_thread(read, f"http://127.0.0.1:{bound.metrics_port}/metrics")
    assert 'luthier_rpc_seconds_bucket{code="OK",kind="unary_stream",le="0.5",method="WatchDatasetRevision"' in page
    assert 'luthier_rpc_stream_messages_total{method="WatchDatasetRevision",service="curation"}' in page
    assert "acme" not in page


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:
        content: bytes = response.read()
    return content.decode()
