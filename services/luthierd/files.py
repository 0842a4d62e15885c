"""Atomic writes of files."""

from __future__ import annotations

import os
import pathlib
import uuid
from collections.abc import Iterable


def write_atomically(path: pathlib.Path, chunks: Iterable[bytes]) -> None:
    """Writes the whole file or nothing, even if the machine loses power."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
