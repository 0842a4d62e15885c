"""Errors to gRPC status: the only place that builds `google.rpc.Status`."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from luthierd import errors
from luthierd.logs import request_id


def code_of(error: errors.LuthierError) -> grpc.StatusCode:
    """The gRPC status of `error`."""
    return grpc.StatusCode[error.code]


def status_of(error: errors.LuthierError, domain: str) -> status_pb2.Status:
    """`error` with all its details."""
    metadata = {key: str(value) for key, value in error.metadata.items()}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=domain, metadata=metadata)]
    if isinstance(error, errors.InvalidArgumentError) and error.violations:
        violation = error_details_pb2.BadRequest.FieldViolation
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    violation(field=v.field, description=v.description, reason=error.reason) for v in error.violations
                ]
            )
        )
    if isinstance(error, errors.RetryableError):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_after_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, errors.FailedPreconditionError):
        violation_kind = error_details_pb2.PreconditionFailure.Violation
        details.append(
            error_details_pb2.PreconditionFailure(
                violations=[
                    violation_kind(type=error.reason, subject=subject, description=message)
                    for subject, message in (dict.fromkeys(error.subjects, "") or {"": str(error)}).items()
                ]
            )
        )
    packed = []
    for detail in details:
        any_detail = any_pb2.Any()
        any_detail.Pack(detail)
        packed.append(any_detail)
    return status_pb2.Status(code=code_pb2.Code.Value(code_of(error).name), message=str(error), details=packed)


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
