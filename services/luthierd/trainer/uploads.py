"""Files that arrive in pieces and wait for their import, each named by its digest, in a folder for each tenant.

A piece is appended only where the last one ended, so a caller that lost its place, or its connection, asks and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pathlib
import time
import weakref
from collections.abc import Callable

from luthierd.errors import InvalidArgumentError
from luthierd.files import DiskFullError, is_disk_full
from luthierd.names import TENANT
from luthierd.storage.blobs import CHUNK_BYTES, SHA256
from luthierd.trainer.domain.adapter_import import (
    AdapterFileDamagedError,
    AdapterFileMissingError,
    AdapterUploadsFullError,
)

MAX_PIECE_BYTES = 1024 * 1024
"""Documented in the contract, like the next one."""
KEPT_S = 24 * 3600.0
MAX_FILES_PER_TENANT = 64
PART = ".part"


class Uploads:
    """`max_bytes`: of a tenant's files together. Every piece is in the file system when its call returns."""

    def __init__(self, folder: pathlib.Path, *, max_bytes: int, now: Callable[[], float] = time.time) -> None:
        self._folder, self._max_bytes, self._now = folder, max_bytes, now
        self._locks: weakref.WeakValueDictionary[pathlib.Path, asyncio.Lock] = weakref.WeakValueDictionary()

    async def write(self, parent: str, sha256: str, *, size_bytes: int, offset_bytes: int, data: bytes) -> int:
        """The number of bytes that are held afterwards; equal to `size_bytes` for a complete file.

        AdapterUploadsFullError, AdapterFileDamagedError, DiskFullError.
        """
        (tenant,) = TENANT.parse(parent, field="parent")
        if not SHA256.fullmatch(sha256):
            raise InvalidArgumentError.of_field("sha256", "it must be a sha256 in lower-case hex")
        if size_bytes < 1:
            raise InvalidArgumentError.of_field("size_bytes", f"{size_bytes} is no size of a file")
        if len(data) > MAX_PIECE_BYTES:
            raise InvalidArgumentError.of_field("data", f"{len(data)} bytes are more than {MAX_PIECE_BYTES}")
        if not 0 <= offset_bytes <= size_bytes - len(data):
            raise InvalidArgumentError.of_field("offset_bytes", "the piece is not inside of the file")
        path = self._folder / tenant / sha256
        lock = self._locks.setdefault(self._folder / tenant, asyncio.Lock())
        async with lock:  # of the tenant: the limit counts all its files
            return await asyncio.to_thread(self._write, path, size_bytes, offset_bytes, data)

    def path(self, tenant: str, sha256: str) -> pathlib.Path:
        """A complete file. AdapterFileMissingError."""
        path = self._folder / tenant / sha256
        if not SHA256.fullmatch(sha256) or not path.is_file():
            raise AdapterFileMissingError(
                f"the file {sha256[:64]!r} is not complete here; write it with WriteAdapterFile, then import again",
                metadata={"sha256": sha256[:64]},
            )
        return path

    def _write(self, path: pathlib.Path, size_bytes: int, offset_bytes: int, data: bytes) -> int:
        if path.exists():
            path.touch()
            return size_bytes
        part = path.with_name(path.name + PART)
        held_bytes = part.stat().st_size if part.exists() else 0
        if not held_bytes:
            self._delete_old()
        self._check_room(part, more_bytes=size_bytes - held_bytes)
        if data and offset_bytes == held_bytes:
            _append(part, data)
            held_bytes += len(data)
        if held_bytes >= size_bytes:
            _complete(part, path)
        return held_bytes

    def _check_room(self, part: pathlib.Path, *, more_bytes: int) -> None:
        files = [file.stat().st_size for file in part.parent.glob("*")] if part.parent.exists() else []
        if sum(files) + more_bytes > self._max_bytes or len(files) >= MAX_FILES_PER_TENANT + part.exists():
            raise AdapterUploadsFullError(
                f"{len(files)} files of {sum(files)} bytes wait for their import, and {more_bytes} bytes more would "
                f"exceed the limit of {self._max_bytes} bytes or {MAX_FILES_PER_TENANT} files; import or wait: a file "
                "is deleted after 24 hours",
                metadata={"limit_bytes": str(self._max_bytes), "held_bytes": str(sum(files))},
                retry_after_s=600.0,
            )

    def _delete_old(self) -> None:
        for file in self._folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # another tenant's call was faster
                if file.stat().st_mtime < self._now() - KEPT_S:
                    file.unlink()


def _append(part: pathlib.Path, data: bytes) -> None:
    part.parent.mkdir(parents=True, exist_ok=True)
    before = part.stat().st_size if part.exists() else 0
    try:
        with part.open("ab") as file:
            file.write(data)
    except OSError as error:
        os.truncate(part, before)  # what was written of the piece would be taken for all of it
        if not is_disk_full(error):
            raise
        raise DiskFullError.below(str(part.parent.parent)) from error


def _complete(part: pathlib.Path, path: pathlib.Path) -> None:
    """AdapterFileDamagedError, and the file is gone, unless the bytes have the digest in its name."""
    digest = hashlib.sha256()
    with part.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != path.name:
        part.unlink()
        raise AdapterFileDamagedError(
            f"the bytes that arrived have the sha256 {digest.hexdigest()}, not {path.name}; write the file again",
            metadata={"expected_sha256": path.name, "actual_sha256": digest.hexdigest()},
        )
    part.rename(path)
