"""The blob store: bytes by their sha256, in a local folder or any store that fsspec supports.

A blob is written under a temporary name, synced, then renamed: it exists completely or not at all, and never changes.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import hashlib
import math
import os
import pathlib
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec

from luthierd.config import ServerConfig
from luthierd.errors import DataLossError, InvalidArgumentError, NotFoundError, ResourceExhaustedError
from luthierd.files import write_atomically

CHUNK_BYTES = 1024 * 1024
MAX_PIECE_BYTES = 1024 * 1024
"""Limit of one response; documented in the contracts."""
RENEWAL_S = 600.0
"""Objects of a remote store that are older than this are written again when they are stored again. Shorter than any
sensible grace period of a sweep."""
SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobNotFoundError(NotFoundError):
    """The store has no such blob."""

    reason = "BLOB_NOT_FOUND"

    def __init__(self, sha256: str) -> None:
        super().__init__(
            f"the blob {sha256} is not in the store; restore it, or create its owner again", metadata={"sha256": sha256}
        )


class BlobCorruptError(DataLossError):
    """The content of a blob does not match its digest."""

    reason = "BLOB_CORRUPT"


class DiskFullError(ResourceExhaustedError):
    """No disk space for the blob."""

    reason = "DISK_FULL"


@dataclass(frozen=True)
class Blob:
    """Digest and size of a blob."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class StoredBlob:
    """A blob as the store lists it. `modified_time`: seconds since the epoch; infinite where the store does not say."""

    sha256: str
    size_bytes: int
    modified_time: float


@dataclass(frozen=True)
class Piece:
    """Some bytes of a blob; size and digest are those of the whole blob."""

    data: bytes
    size_bytes: int
    sha256: str


class BlobStore:
    """Content-addressed blobs below `url`. Methods block: call them from a worker, or through `asyncio.to_thread`."""

    def __init__(self, url: str, *, cache: pathlib.Path | None = None) -> None:
        self._files, self._root = fsspec.core.url_to_fs(url)
        self._is_local = "file" in (
            self._files.protocol if isinstance(self._files.protocol, tuple) else (self._files.protocol,)
        )
        self._cache = cache or pathlib.Path(tempfile.gettempdir()) / "luthier-blobs"

    @classmethod
    def of(cls, config: ServerConfig) -> BlobStore:
        """The store of an installation."""
        return cls(config.blobs, cache=config.home / "cache/blobs")

    def put_bytes(self, data: bytes) -> Blob:
        """Stores `data`; storing the same again only makes the blob young. DiskFullError."""
        blob = Blob(hashlib.sha256(data).hexdigest(), len(data))
        if not self.renew(blob.sha256):
            self._write(blob.sha256, iter([data]))
        return blob

    def put_file(self, path: pathlib.Path) -> Blob:
        """Stores the content of a file. DiskFullError; BlobCorruptError if the file changes meanwhile."""
        digest, size = hashlib.sha256(), 0
        for chunk in _chunks(path):
            digest.update(chunk)
            size += len(chunk)
        blob = Blob(digest.hexdigest(), size)
        if not self.renew(blob.sha256):
            self._write(blob.sha256, _verified(_chunks(path), blob.sha256))
        return blob

    def has(self, sha256: str) -> bool:
        """Whether the blob is in the store."""
        return bool(self._files.exists(self._location(sha256)))

    def read_bytes(self, sha256: str) -> bytes:
        """The whole blob, verified. BlobNotFoundError, BlobCorruptError."""
        try:
            data = bytes(self._files.cat_file(self._location(sha256)))
        except FileNotFoundError:
            raise BlobNotFoundError(sha256) from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BlobCorruptError(
                f"the content of blob {sha256} does not match its digest", metadata={"sha256": sha256}
            )
        return data

    def read_range(self, sha256: str, offset_bytes: int, limit_bytes: int) -> bytes:
        """A chunk of the blob, unverified; empty past the end. BlobNotFoundError."""
        try:
            with self._files.open(self._location(sha256), "rb") as file:
                file.seek(offset_bytes)
                return bytes(file.read(limit_bytes))
        except FileNotFoundError:
            raise BlobNotFoundError(sha256) from None

    def size_bytes(self, sha256: str) -> int:
        """The blob's size. BlobNotFoundError."""
        try:
            return int(self._files.size(self._location(sha256)))
        except FileNotFoundError:
            raise BlobNotFoundError(sha256) from None

    def local_path(self, sha256: str) -> pathlib.Path:
        """A local, read-only file with the blob; fetched and verified if the store is remote."""
        if self._is_local:
            path = pathlib.Path(self._location(sha256))
            if not path.exists():
                raise BlobNotFoundError(sha256)
            return path
        path, location = self._cached(sha256), self._location(sha256)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{sha256}.{uuid.uuid4().hex}.partial")
            try:
                self._files.get_file(location, str(partial))
                verify_file(partial, sha256)
                partial.rename(path)
            except FileNotFoundError:
                raise BlobNotFoundError(sha256) from None
            finally:
                partial.unlink(missing_ok=True)
        return path

    @property
    def local_folder(self) -> pathlib.Path | None:
        """The folder of the store; None for a remote one."""
        return pathlib.Path(self._root) if self._is_local else None

    def list(self) -> Iterator[StoredBlob]:
        """Every blob."""
        for path, info in self._files.find(self._root, detail=True).items():
            if SHA256.fullmatch(name := path.rpartition("/")[2]):
                yield StoredBlob(name, int(info["size"]), _modified_time(info))

    def delete_older(self, sha256: str, cutoff_time: float) -> bool:
        """Removes the blob unless it is younger than that, or was stored again since it was listed. Whether it did."""
        with self._locked(fcntl.LOCK_EX):
            try:
                if _modified_time(self._files.info(self._location(sha256))) >= cutoff_time:
                    return False
            except FileNotFoundError:
                return False
            self.delete(sha256)
        return True

    def renew(self, sha256: str) -> bool:
        """Whether the blob is there. It then counts as new, so that no sweep takes it from its next owner."""
        location = self._location(sha256)
        with self._locked(fcntl.LOCK_SH):
            try:
                if self._is_local:
                    os.utime(location)
                    return True
                # An object cannot be touched; an old one is written again.
                return _modified_time(self._files.info(location)) > time.time() - RENEWAL_S
            except FileNotFoundError:
                return False

    @contextlib.contextmanager
    def _locked(self, mode: int) -> Iterator[None]:
        """Keeps a sweep from deleting a blob between its check and its deletion. Only of a local store."""
        if not self._is_local or not pathlib.Path(self._root).is_dir():
            yield
            return
        with pathlib.Path(f"{self._root.rstrip('/')}.lock").open("ab") as file:
            fcntl.flock(file, mode)
            yield

    def delete(self, sha256: str) -> None:
        """Removes the blob from the store and from this machine's cache; a missing blob is not an error.

        Only for blobs that no one else can reference: references are digests and are not tracked.
        """
        self.drop_cached(sha256)
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._location(sha256))

    def drop_cached(self, sha256: str) -> None:
        """Removes the blob from this machine's cache, so that a delete elsewhere leaves no copy here."""
        self._cached(sha256).unlink(missing_ok=True)

    def _cached(self, sha256: str) -> pathlib.Path:
        return self._cache / sha256[:2] / sha256

    def _location(self, sha256: str) -> str:
        if not SHA256.fullmatch(sha256):
            raise InvalidArgumentError(f"{sha256!r} is not a sha256 in hex", metadata={"sha256": sha256})
        return f"{self._root.rstrip('/')}/{sha256[:2]}/{sha256}"

    def _write(self, sha256: str, chunks: Iterator[bytes]) -> None:
        location = self._location(sha256)
        try:
            if self._is_local:
                write_atomically(pathlib.Path(location), chunks)
            else:  # through the cache: an interrupted stream could be published as if it were complete
                write_atomically(self._cached(sha256), chunks)
                self._files.put_file(str(self._cached(sha256)), location)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise
            raise DiskFullError(
                f"no room for the blob {sha256} below {self._root}; free some space and try again",
                metadata={"sha256": sha256},
            ) from error


def read_piece(
    blobs: BlobStore, sha256: str, *, offset_bytes: int, limit_bytes: int, size_bytes: int | None = None
) -> Piece:
    """Up to `limit_bytes` (0: `MAX_PIECE_BYTES`, which is also the limit) from an offset; empty past the end.

    `size_bytes`: of the blob, if known. InvalidArgumentError for a negative number.
    """
    for field, value in (("offset_bytes", offset_bytes), ("limit_bytes", limit_bytes)):
        if value < 0:
            raise InvalidArgumentError.of_field(field, f"{value} is negative")
    size_bytes = blobs.size_bytes(sha256) if size_bytes is None else size_bytes
    limit_bytes = min(limit_bytes or MAX_PIECE_BYTES, MAX_PIECE_BYTES)
    data = blobs.read_range(sha256, offset_bytes, limit_bytes) if offset_bytes < size_bytes else b""
    return Piece(data, size_bytes, sha256)


def verify_file(path: pathlib.Path, sha256: str) -> None:
    """BlobCorruptError unless the file has that digest."""
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise BlobCorruptError(
            f"the content of {path.name} does not match its digest {sha256}", metadata={"sha256": sha256}
        )


def _verified(chunks: Iterator[bytes], sha256: str) -> Iterator[bytes]:
    """Yields `chunks`, then raises BlobCorruptError unless they have that digest."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != sha256:
        raise BlobCorruptError(
            f"the file changed while it was stored as blob {sha256}; try again", metadata={"sha256": sha256}
        )


def _modified_time(info: dict[str, Any]) -> float:
    """Seconds since the epoch, from what fsspec says of a file; infinite if it says nothing."""
    value = info.get("mtime") or info.get("LastModified") or info.get("updated") or info.get("created")
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else math.inf


def _chunks(path: pathlib.Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
