"""Exit codes, stable. From 64 on they are those of BSD's sysexits, so that none clashes with a gate's outcome."""

from __future__ import annotations

from luthier import errors

OK = 0
NO_GO = FAILED = 1  # a gate said NO-GO; a job that was waited for failed or was cancelled; doctor found a fault
INCONCLUSIVE = 2  # a gate lacks evidence
USAGE = 64  # the command line, a configuration file or a resource name is wrong; nothing was sent
REFUSED = 65  # a service rejected the request: bad data, unknown or existing name, wrong state, quota
UNAVAILABLE = 69  # a service or the installation cannot be reached, or did not answer in time
INTERNAL = 70  # a defect of Luthier
IO = 74  # a local file cannot be read or written
DENIED = 77  # no token, or a token without the permission
INTERRUPTED = 130  # Ctrl-C; jobs that were started continue

_BY_ERROR: tuple[tuple[type[errors.LuthierError], int], ...] = (
    (errors.JobFailedError, FAILED),
    (errors.JobCancelledError, FAILED),
    (errors.InvalidNameError, USAGE),
    (errors.ConfigError, USAGE),
    (errors.ProfileError, UNAVAILABLE),
    (errors.UnavailableError, UNAVAILABLE),
    (errors.DeadlineExceededError, UNAVAILABLE),
    (errors.UnauthenticatedError, DENIED),
    (errors.PermissionDeniedError, DENIED),
    (errors.InternalError, INTERNAL),
    (errors.DataLossError, INTERNAL),
    (errors.UnimplementedError, INTERNAL),
)


def code_of(error: errors.LuthierError) -> int:
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), REFUSED)
