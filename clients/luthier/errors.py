"""The errors of the SDK, one class per kind.

LuthierError
+-- RpcError                     a service answered with a status, or could not be reached
|   +-- InvalidArgumentError     .field_violations
|   +-- NotFoundError
|   +-- AlreadyExistsError
|   +-- FailedPreconditionError  .precondition_violations
|   +-- PermissionDeniedError
|   +-- UnauthenticatedError
|   +-- ResourceExhaustedError
|   +-- UnavailableError         the only kind that is retried
|   +-- AbortedError             an etag no longer matches
|   +-- DeadlineExceededError
|   +-- CallCancelledError
|   +-- DataLossError
|   +-- UnimplementedError
|   +-- InternalError            a defect of the service; .metadata may hold an error id
+-- JobFailedError               a job was waited for and FAILED; .job
+-- JobCancelledError            a job was waited for and was CANCELLED; .job
+-- InvalidNameError             a resource name does not parse
+-- ConfigError                  a configuration file or mapping does not fit
|   +-- UnknownKeyError          .path, .nearest
+-- ProfileError                 no installation, address or key to talk with

This module needs only the standard library; the translation from gRPC is in `luthier.status`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class LuthierError(Exception):
    """The root. `reason` is stable and upper case (docs/errors.md); `metadata` holds what varies in the message."""

    reason = "UNKNOWN"
    code = ""

    def __init__(self, message: str, *, reason: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason
        self.metadata: dict[str, str] = dict(metadata or {})


@dataclass(frozen=True)
class FieldViolation:
    """A field of a rejected request."""

    field: str
    description: str
    reason: str = ""


@dataclass(frozen=True)
class PreconditionViolation:
    """A condition that does not hold."""

    type: str
    subject: str
    description: str


class RpcError(LuthierError):
    """A call ended with a status other than OK.

    code: the gRPC status by name, e.g. `NOT_FOUND`. service and method: what was called. domain: the source of the
    reason, e.g. `trainer.luthier.dev`; empty if the status did not come from a Luthier service.
    retry_after_s: the delay that the service asks for; None: none. request_id: the call's id in the service's log;
    empty if the call did not arrive.
    """

    code = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        domain: str = "",
        service: str = "",
        method: str = "",
        field_violations: Sequence[FieldViolation] = (),
        precondition_violations: Sequence[PreconditionViolation] = (),
        retry_after_s: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.domain = domain
        self.service = service
        self.method = method
        self.field_violations = tuple(field_violations)
        self.precondition_violations = tuple(precondition_violations)
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class InvalidArgumentError(RpcError):
    code = reason = "INVALID_ARGUMENT"


class NotFoundError(RpcError):
    code = reason = "NOT_FOUND"


class AlreadyExistsError(RpcError):
    code = reason = "ALREADY_EXISTS"


class FailedPreconditionError(RpcError):
    code = reason = "FAILED_PRECONDITION"


class PermissionDeniedError(RpcError):
    code = reason = "PERMISSION_DENIED"


class UnauthenticatedError(RpcError):
    code = reason = "UNAUTHENTICATED"


class ResourceExhaustedError(RpcError):
    code = reason = "RESOURCE_EXHAUSTED"


class UnavailableError(RpcError):
    code = reason = "UNAVAILABLE"


class AbortedError(RpcError):
    code = reason = "ABORTED"


class DeadlineExceededError(RpcError):
    code = reason = "DEADLINE_EXCEEDED"


class CallCancelledError(RpcError):
    code = reason = "CANCELLED"


class DataLossError(RpcError):
    code = reason = "DATA_LOSS"


class UnimplementedError(RpcError):
    code = reason = "UNIMPLEMENTED"


class InternalError(RpcError):
    code = reason = "INTERNAL"


class JobFailedError(LuthierError):
    """A job that was waited for failed. `job` is its message, `reason` the job's own."""

    reason = "JOB_FAILED"

    def __init__(
        self, message: str, *, job: object, reason: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.job = job


class JobCancelledError(LuthierError):
    """A job that was waited for was cancelled. `job` is its message."""

    reason = "JOB_CANCELLED"

    def __init__(self, message: str, *, job: object) -> None:
        super().__init__(message)
        self.job = job


class InvalidNameError(LuthierError):
    reason = "INVALID_NAME"


class ConfigError(LuthierError):
    reason = "INVALID_CONFIG"


class UnknownKeyError(ConfigError):
    """An unknown key. path: dotted. nearest: the most similar known key; empty if none is similar."""

    reason = "UNKNOWN_CONFIG_KEY"

    def __init__(self, message: str, *, path: str, nearest: str) -> None:
        super().__init__(message, metadata={"path": path, "nearest": nearest})
        self.path = path
        self.nearest = nearest


class ProfileError(LuthierError):
    reason = "NO_INSTALLATION"
