"""From a gRPC failure to a `luthier.errors` error: the only place that reads `grpc-status-details-bin`."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from luthier import errors
from luthier.errors import FieldViolation, PreconditionViolation, RpcError

DETAILS_KEY = "grpc-status-details-bin"
REQUEST_ID_KEY = "x-request-id"

BY_CODE: dict[grpc.StatusCode, type[RpcError]] = {
    **{grpc.StatusCode[kind.code]: kind for kind in RpcError.__subclasses__()},
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidArgumentError,
    grpc.StatusCode.UNKNOWN: errors.InternalError,
}


def error_from_rpc(failure: grpc.aio.AioRpcError, *, service: str, address: str, method: str) -> RpcError:
    """The typed error of a failed call. A status without `ErrorInfo` does not come from one of our handlers."""
    kind = BY_CODE.get(failure.code(), RpcError)
    found = _details(failure)
    if "reason" in found:
        request_id = _trailer(failure, REQUEST_ID_KEY)
        return kind(failure.details() or "", service=service, method=method, request_id=str(request_id or ""), **found)
    if kind is errors.UnavailableError:
        return errors.UnavailableError(
            f"the {service} service at {address} does not answer ({_cause(failure)}); start it with `luthier up`, "
            "see what runs with `luthier status`, or name another installation with --endpoint",
            reason="SERVICE_UNREACHABLE",
            metadata={"service": service, "address": address},
            service=service,
            method=method,
            retry_after_s=found.get("retry_after_s"),
        )
    if kind is errors.DeadlineExceededError:
        message = f"the {service} service at {address} did not answer {method} in time"
        metadata = {"service": service, "address": address, "method": method}
        return kind(message, metadata=metadata, service=service, method=method)
    return kind(failure.details() or failure.code().name, service=service, method=method, **found)


def error_from_status(status: status_pb2.Status) -> tuple[str, str, dict[str, str]]:
    """Message, reason and metadata of a `google.rpc.Status` inside a resource, such as `TrainingJob.error`."""
    found = _unpack(status)
    return status.message, str(found.get("reason", "UNKNOWN")), dict(found.get("metadata", {}))


def _cause(failure: grpc.aio.AioRpcError) -> str:
    details = failure.details() or "no details"
    return "connection refused" if "onnection refused" in details else details


def _details(failure: grpc.aio.AioRpcError) -> dict[str, Any]:
    packed = _trailer(failure, DETAILS_KEY)
    try:
        return _unpack(status_pb2.Status.FromString(packed)) if isinstance(packed, bytes) else {}
    except DecodeError:
        return {}


def _trailer(failure: grpc.aio.AioRpcError, key: str) -> str | bytes | None:
    metadata: Any = failure.trailing_metadata() or ()
    return next((value for found, value in metadata if found == key), None)


def _unpack(status: status_pb2.Status) -> dict[str, Any]:
    """Arguments of `RpcError` from the known details; skips others."""
    found: dict[str, Any] = {}
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            found |= {"reason": info.reason, "domain": info.domain, "metadata": dict(info.metadata)}
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            found["field_violations"] = [FieldViolation(v.field, v.description, v.reason) for v in bad.field_violations]
        elif detail.Is(error_details_pb2.PreconditionFailure.DESCRIPTOR):
            failed = error_details_pb2.PreconditionFailure.FromString(detail.value)
            violations = [PreconditionViolation(v.type, v.subject, v.description) for v in failed.violations]
            found["precondition_violations"] = violations
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            found["retry_after_s"] = retry.seconds + retry.nanos / 1e9
    return found
