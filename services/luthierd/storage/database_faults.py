"""What a driver's error means for a caller: the database is away or damaged, its disk is full, or our code is wrong."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator

import sqlalchemy as sa

from luthierd.errors import DataLossError, LuthierError, UnavailableError
from luthierd.files import DiskFullError

log = logging.getLogger(__name__)

RETRY_AFTER_S = 2.0

_SQLITE_AWAY = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
}
_SQLITE_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

_POSTGRESQL_DISK_FULL = "53100"
_POSTGRESQL_AWAY = ("08", "25006", "40", "53", "57", "58")
"""Beginnings of SQLSTATEs: no connection, a standby, a lost race, no resources, an operator's act, a fault of its disk.
See https://www.postgresql.org/docs/current/errcodes-appendix.html."""


class DatabaseUnavailableError(UnavailableError):
    """The database does not answer, or cannot read or write its files."""

    reason = "DATABASE_UNAVAILABLE"

    def __init__(self, database: str, cause: BaseException) -> None:
        super().__init__(
            f"the database {database} cannot be used now ({_told(cause)}); see that it runs, that LUTHIER_DATABASE_URL "
            "names it and that its disk can be written; the call can be repeated",
            metadata={"database": database, "cause": _told(cause)},
            retry_after_s=RETRY_AFTER_S,
        )


class DatabaseDamagedError(DataLossError):
    """The file of an SQLite database is not one, or not a whole one."""

    reason = "DATABASE_DAMAGED"

    def __init__(self, database: str, cause: BaseException) -> None:
        super().__init__(
            f"the database {database} is damaged ({_told(cause)}); stop the service and restore the file from a backup",
            metadata={"database": database},
        )


@contextlib.contextmanager
def database_faults_named(database: str) -> Iterator[None]:
    """Raises the errors of this module and DiskFullError for what a caller cannot help; other errors pass."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, ConnectionError) as error:
        if (fault := _fault(error, database)) is not None:
            log.warning("the database cannot be used", extra={"reason": fault.reason, "cause": _told(error)})
            raise fault from error
        raise


@contextlib.contextmanager
def connecting(database: str) -> Iterator[None]:
    """Whatever goes wrong while a connection is opened: no one but an operator can help."""
    try:
        yield
    except Exception as error:  # drivers and resolvers raise many types, some without a common base
        cause = getattr(error, "orig", None) or error
        fault = _fault(error, database) or DatabaseUnavailableError(database, cause)
        log.warning("the database cannot be reached", extra={"reason": fault.reason, "cause": _told(error)})
        raise fault from error


def _fault(error: Exception, database: str) -> LuthierError | None:
    """None: a defect of ours, such as a violated constraint."""
    if isinstance(error, ConnectionError | sa.exc.TimeoutError):  # TimeoutError: every connection of the pool is taken
        return DatabaseUnavailableError(database, error)
    if not isinstance(error, sa.exc.DBAPIError):
        return None
    cause = error.orig or error
    code = getattr(cause, "sqlite_errorcode", None)
    state = getattr(cause, "sqlstate", None) or ""
    if (code is not None and code & 0xFF == sqlite3.SQLITE_FULL) or state == _POSTGRESQL_DISK_FULL:
        return DiskFullError.below(database)
    if code is not None and code & 0xFF in _SQLITE_DAMAGED:
        return DatabaseDamagedError(database, cause)
    is_away = error.connection_invalidated or state.startswith(_POSTGRESQL_AWAY)
    if is_away or (code is not None and code & 0xFF in _SQLITE_AWAY):
        return DatabaseUnavailableError(database, cause)
    return None


def _told(error: BaseException) -> str:
    """The type alone: messages of drivers hold parameters of statements."""
    return getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None) or type(error).__name__
