"""Logs are events with fields: one JSON object per line on stderr, without user text or secrets."""

from __future__ import annotations

import contextvars
import datetime
import fcntl
import json
import logging
import os
import pathlib
import shutil
import sys
from logging.handlers import RotatingFileHandler
from typing import Any, TextIO

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """A record as JSON: time, level, service, event, request id, and the fields of `extra`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        event: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage(),
        }
        if request_id.get():
            event["request_id"] = request_id.get()
        event |= {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        if record.exc_info:
            event["trace"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


def configure_logging(service: str, level: str, *, max_bytes: int = 0, backup_count: int = 1) -> None:
    """Sends every logger of this process to stderr as JSON. Where stderr is appended to a file, the file is rotated at
    `max_bytes` (0: never) and `backup_count` old ones are kept.
    """
    path = _appended_file(sys.stderr) if max_bytes and backup_count else None
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path is not None:
        handler = RotatingFileHandler(path, maxBytes=max_bytes, backupCount=backup_count)
        handler.rotator = _copy_and_truncate
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _appended_file(stream: TextIO) -> pathlib.Path | None:
    """The file that a stream is appended to; None for a terminal or a pipe, and where the system does not tell."""
    try:
        number = stream.fileno()
        is_appended = bool(fcntl.fcntl(number, fcntl.F_GETFL) & os.O_APPEND)
        path = pathlib.Path(f"/proc/self/fd/{number}").readlink()
        return path if is_appended and path.is_file() else None
    except (OSError, ValueError):
        return None


def _copy_and_truncate(source: str, target: str) -> None:
    """Renaming would not do: libraries and child processes write to the same open file."""
    try:
        shutil.copyfile(source, target)
    except OSError:  # a full disk loses the old lines, not the next ones
        pathlib.Path(target).unlink(missing_ok=True)
    os.truncate(source, 0)
