"""The error tree. Raised in the domain, translated once, in `rpc/status.py`: `code` names the gRPC status.

    LuthierError
      InvalidArgumentError      the request is wrong, whatever the state of the service
      UnauthenticatedError      no valid token
      PermissionDeniedError     a valid token, not for this; says nothing about existence
      NotFoundError             no such resource of the caller's tenant
      AlreadyExistsError        the name is taken by something else
      FailedPreconditionError   the request is right, the state is not
      AbortedError              the etag no longer matches: read again
      ResourceExhaustedError    a quota or queue is full: later
      UnavailableError          a part is starting or dead: later
      DeadlineExceededError     the time given was not enough
      DataLossError             bytes do not have the digest they should have
      InternalError             ours to mend

A concrete error is a subclass with its own `reason`:
`class JobNotFoundError(NotFoundError): reason = "JOB_NOT_FOUND"`.
The (reason, domain) pairs are public: docs/errors.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class LuthierError(Exception):
    """An error that a caller can act on: `str(error)` says what failed, which resource, and what to do.

    `metadata` has every variable part of the message, so that programs need not parse it.
    """

    reason: ClassVar[str] = "INTERNAL"
    code: ClassVar[str] = "INTERNAL"
    """Name of the gRPC status."""

    def __init__(self, message: str, *, metadata: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.metadata: dict[str, str] = metadata or {}

    def as_failure(self) -> dict[str, Any]:
        """The error as a job stores it."""
        return {"code": self.code, "reason": self.reason, "message": str(self), "metadata": self.metadata}


@dataclass(frozen=True)
class FieldViolation:
    """An invalid field: its dotted path, and what is valid."""

    field: str
    description: str


class InvalidArgumentError(LuthierError):
    """The request is invalid. `violations` names the fields, if any."""

    reason = "INVALID_ARGUMENT"
    code = "INVALID_ARGUMENT"
    field_name: ClassVar[str] = ""
    """The field of every error of a class that is about one field only."""

    def __init__(
        self,
        message: str,
        *,
        metadata: dict[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
    ) -> None:
        super().__init__(message, metadata=metadata)
        self.violations = tuple(violations)
        if self.field_name and not violations:
            self.violations = (FieldViolation(self.field_name, message),)

    @classmethod
    def of_field(cls, field: str, description: str) -> InvalidArgumentError:
        """An error about one field."""
        return cls(
            f"{field}: {description}", metadata={"field": field}, violations=[FieldViolation(field, description)]
        )


class UnauthenticatedError(LuthierError):
    """The token is missing, expired or not signed by us."""

    reason = "UNAUTHENTICATED"
    code = "UNAUTHENTICATED"


class PermissionDeniedError(LuthierError):
    """The token does not allow this."""

    reason = "PERMISSION_DENIED"
    code = "PERMISSION_DENIED"


class NotFoundError(LuthierError):
    """There is no such resource."""

    reason = "NOT_FOUND"
    code = "NOT_FOUND"


class AlreadyExistsError(LuthierError):
    """The name is taken."""

    reason = "ALREADY_EXISTS"
    code = "ALREADY_EXISTS"


class FailedPreconditionError(LuthierError):
    """The state of the resource does not allow this now."""

    reason = "FAILED_PRECONDITION"
    code = "FAILED_PRECONDITION"
    subjects: Sequence[str] = ()
    """The resources whose state does not allow it, if they are others than the one asked for."""


class AbortedError(LuthierError):
    """The resource was changed by someone else."""

    reason = "ETAG_MISMATCH"
    code = "ABORTED"


class RetryableError(LuthierError):
    """The call may succeed after `retry_after_s` seconds."""

    def __init__(self, message: str, *, metadata: dict[str, str] | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, metadata=metadata)
        self.retry_after_s = retry_after_s


class ResourceExhaustedError(RetryableError):
    """A limit was reached."""

    reason = "RESOURCE_EXHAUSTED"
    code = "RESOURCE_EXHAUSTED"


class UnavailableError(RetryableError):
    """A required component is not available."""

    reason = "UNAVAILABLE"
    code = "UNAVAILABLE"


class DeadlineExceededError(LuthierError):
    """The call exceeded its time limit."""

    reason = "DEADLINE_EXCEEDED"
    code = "DEADLINE_EXCEEDED"


class DataLossError(LuthierError):
    """Bytes are missing or do not match their digest."""

    reason = "DATA_LOSS"
    code = "DATA_LOSS"


class InternalError(LuthierError):
    """A bug in the service."""

    reason = "INTERNAL"
    code = "INTERNAL"


BY_CODE: dict[str, type[LuthierError]] = {
    kind.code: kind
    for kind in (*LuthierError.__subclasses__(), *RetryableError.__subclasses__())
    if kind is not RetryableError
}
"""The kind of error for each gRPC status."""
