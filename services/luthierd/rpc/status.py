"""Errors to gRPC status: the only place that builds `google.rpc.Status`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from luthierd import errors
from luthierd.logs import request_id

M = TypeVar("M", bound=Message)

MAX_MESSAGE_BYTES = 1024
MAX_VALUE_BYTES = 256
MAX_VIOLATIONS_BYTES = 1024
"""Clients refuse a status whose trailers exceed 8 KiB (grpc.max_metadata_size): a name of 8,000 characters that an
error quotes would turn it into another error. Base64 and percent-encoding are counted in."""


def code_of(error: errors.LuthierError) -> grpc.StatusCode:
    """The gRPC status of `error`."""
    return grpc.StatusCode[error.code]


def status_of(error: errors.LuthierError, domain: str) -> status_pb2.Status:
    """`error` with all its details."""
    message = shortened(str(error), MAX_MESSAGE_BYTES)
    metadata = {key: shortened(str(value), MAX_VALUE_BYTES) for key, value in error.metadata.items()}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=domain, metadata=metadata)]
    if isinstance(error, errors.InvalidArgumentError) and error.violations:
        details.append(error_details_pb2.BadRequest(field_violations=_fitting(_violations(error))))
    if isinstance(error, errors.RetryableError):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_after_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, errors.FailedPreconditionError):
        found = (dict.fromkeys(error.subjects, "") or {"": message}).items()
        violation_kind = error_details_pb2.PreconditionFailure.Violation
        failures = (
            violation_kind(type=error.reason, subject=subject, description=shortened(text, MAX_VALUE_BYTES))
            for subject, text in found
        )
        details.append(error_details_pb2.PreconditionFailure(violations=_fitting(failures)))
    packed = []
    for detail in details:
        any_detail = any_pb2.Any()
        any_detail.Pack(detail)
        packed.append(any_detail)
    return status_pb2.Status(code=code_pb2.Code.Value(code_of(error).name), message=message, details=packed)


def shortened(text: str, max_bytes: int) -> str:
    """`text` in UTF-8 of at most so many bytes; an ellipsis stands for the rest. Lone surrogates become escapes."""
    data = text.encode(errors="backslashreplace")
    if len(data) <= max_bytes:
        return data.decode()
    return data[: max_bytes - len("…".encode())].decode(errors="ignore") + "…"


def _violations(error: errors.InvalidArgumentError) -> Iterator[error_details_pb2.BadRequest.FieldViolation]:
    for one in error.violations:
        yield error_details_pb2.BadRequest.FieldViolation(
            field=shortened(one.field, MAX_VALUE_BYTES),
            description=shortened(one.description, MAX_VALUE_BYTES),
            reason=error.reason,
        )


def _fitting(violations: Iterator[M]) -> Iterator[M]:
    """As many as fit, at least one."""
    left = MAX_VIOLATIONS_BYTES
    for number, made in enumerate(violations):
        left -= made.ByteSize()
        if left < 0 and number:
            return
        yield made


async def abort_with(context: grpc.aio.ServicerContext[Any, Any], error: errors.LuthierError, domain: str) -> NoReturn:
    """Ends the call with the status of `error` and its details."""
    status = status_of(error, domain)
    trailing = (("grpc-status-details-bin", status.SerializeToString()), ("x-request-id", request_id.get()))
    await context.abort(code_of(error), status.message, trailing)
    raise AssertionError("unreachable: abort raises")


def status_from_failure(failure: dict[str, Any], domain: str) -> status_pb2.Status:
    """The stored error of a job (`LuthierError.as_failure`) as a status."""
    info = error_details_pb2.ErrorInfo(reason=failure["reason"], domain=domain)
    info.metadata.update({key: str(value) for key, value in failure["metadata"].items()})
    detail = any_pb2.Any()
    detail.Pack(info)
    return status_pb2.Status(code=code_pb2.Code.Value(failure["code"]), message=failure["message"], details=[detail])
