"""The outermost frame of a server or worker process: logging, a machine-readable error line, an exit code."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pathlib
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

from luthierd.config import ServerConfig, load_config
from luthierd.errors import FailedPreconditionError, LuthierError
from luthierd.files import disk_full_error
from luthierd.logs import configure_logging

C = TypeVar("C", bound=ServerConfig)
E = TypeVar("E", bound=Exception)

EXIT_REFUSED = 1
"""The process could not start; the last line on stderr says why and what to do."""


class HomeNotWritableError(FailedPreconditionError):
    """The folder of the installation cannot be made, or nothing can be written into it."""

    reason = "HOME_NOT_WRITABLE"

    def __init__(self, home: pathlib.Path, problem: str) -> None:
        super().__init__(
            f"nothing can be written to {home} ({problem}); make it writable, or set LUTHIER_HOME to another folder",
            metadata={"home": str(home), "problem": problem},
        )


def open_home(home: pathlib.Path) -> None:
    """Makes the folder of the installation. From now on this process makes all files and folders for its owner only.

    HomeNotWritableError.
    """
    os.umask(0o077)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HomeNotWritableError(home, error.strerror or str(error)) from None
    if not os.access(home, os.W_OK | os.X_OK):
        raise HomeNotWritableError(home, "permission denied, or a read-only file system")


def run(service: str, config_class: type[C], main: Callable[[C], Awaitable[None]]) -> None:
    """Runs `main(config)`. A LuthierError becomes one JSON line on stderr and exit code 1."""
    try:
        config = load_config(config_class, service)
        open_home(config.home)
        configure_logging(
            service, config.log_level, max_bytes=config.log_max_bytes, backup_count=config.log_backup_count
        )
        asyncio.run(_call(main, config))
    except* LuthierError as group:
        first = _first(group)
        _refuse(service, first.reason, str(first))
    except* Exception as group:
        if (full := disk_full_error(_first(group))) is not None:
            _refuse(service, full.reason, str(full))
        error_id = uuid.uuid4().hex[:12]
        logging.getLogger(__name__).error("the server failed", extra={"error_id": error_id}, exc_info=group)
        _refuse(service, "INTERNAL", f"{service} failed ({error_id}); the lines above have the trace")


async def _call(main: Callable[[C], Awaitable[None]], config: C) -> None:
    await main(config)


def _first(group: BaseExceptionGroup[E]) -> E:
    """The first error of a group, at any depth."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _refuse(service: str, reason: str, message: str) -> None:
    print(json.dumps({"event": "error", "service": service, "reason": reason, "message": message}), file=sys.stderr)
    sys.exit(EXIT_REFUSED)
