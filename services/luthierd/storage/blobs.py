"""The blob store: bytes by their sha256, in a local folder or any store that fsspec supports.

A blob is written under a temporary name, synced, then renamed: it exists completely or not at all, and never changes.
Disks do change bytes, so every read checks them against the digest before they are used, and storing the same bytes
again repairs a damaged blob.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import logging
import math
import os
import pathlib
import re
import tempfile
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import fsspec

from luthierd.config import ConfigError, ServerConfig
from luthierd.errors import InvalidArgumentError, LuthierError
from luthierd.files import disk_full_named, write_atomically
from luthierd.storage.blob_errors import BlobCorruptError, BlobNotFoundError, BlobStoreUnavailableError

log = logging.getLogger(__name__)

CHUNK_BYTES = 1024 * 1024
MAX_PIECE_BYTES = 1024 * 1024
"""Limit of one response; documented in the contracts."""
RENEWAL_S = 600.0
"""Objects of a remote store that are older than this are written again when they are stored again. Shorter than any
sensible grace period of a sweep."""
MAX_VERIFIED = 4096
"""Blobs that a process remembers as verified, for downloads in pieces."""
SHA256 = re.compile(r"[0-9a-f]{64}")


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
    """Content-addressed blobs below `url`, or in a folder. Methods block: call them from a worker, or through
    `asyncio.to_thread`.

    All raise BlobStoreUnavailableError, and DiskFullError where they write, also to the cache of a remote store.
    """

    def __init__(self, url: str | pathlib.Path, *, cache: pathlib.Path | None = None) -> None:
        """ConfigError for a URL that nothing installed here can open."""
        self._files, self._root = _opened(url)
        protocols = self._files.protocol if isinstance(self._files.protocol, tuple) else (self._files.protocol,)
        self._is_local = "file" in protocols
        self._shown = self._root if self._is_local else f"{protocols[0]}://{self._root}"
        self._cache = cache or pathlib.Path(tempfile.gettempdir()) / "luthier-blobs"
        self._verified: OrderedDict[str, str] = OrderedDict()  # what fsspec says of a file when it was verified

    @classmethod
    def of(cls, config: ServerConfig, *, cache: str = "cache/blobs") -> BlobStore:
        """The store of an installation: as configured, else a folder in `home`. `cache`: also a folder there."""
        return cls(config.blobs_url or config.home / "blobs", cache=config.home / cache)

    def put_bytes(self, data: bytes) -> Blob:
        """Stores `data`; storing the same again only makes the blob young, or repairs it. DiskFullError."""
        blob = Blob(hashlib.sha256(data).hexdigest(), len(data))
        if not (self.renew(blob.sha256) and self._is_intact(blob.sha256)):
            self._write(blob.sha256, iter([data]))
        return blob

    def put_file(self, path: pathlib.Path) -> Blob:
        """Stores the content of a file. DiskFullError; BlobCorruptError if the file changes meanwhile."""
        digest, size = hashlib.sha256(), 0
        for chunk in _chunks(path):
            digest.update(chunk)
            size += len(chunk)
        blob = Blob(digest.hexdigest(), size)
        if not (self.renew(blob.sha256) and self._is_intact(blob.sha256)):
            self._write(blob.sha256, _verified(_chunks(path), blob.sha256))
        return blob

    def has(self, sha256: str) -> bool:
        """Whether the blob is in the store."""
        with self._faults_named(sha256):
            return bool(self._files.exists(self._location(sha256)))

    def read_bytes(self, sha256: str) -> bytes:
        """The whole blob, verified. BlobNotFoundError, BlobCorruptError."""
        location = self._location(sha256)
        for is_last in (self._is_local, True):  # bytes from another machine may be damaged on their way: once more
            with self._faults_named(sha256):
                data = bytes(self._files.cat_file(location))
            actual = hashlib.sha256(data).hexdigest()
            if actual == sha256:
                break
            if is_last:
                raise BlobCorruptError.of(sha256, location=location, actual_sha256=actual)
        return data

    def read_range(self, sha256: str, offset_bytes: int, limit_bytes: int) -> bytes:
        """A chunk of the blob; empty past the end. BlobNotFoundError, BlobCorruptError.

        The whole blob is verified by the first read in this process, and again when its file or object was changed.
        """
        self._verify(sha256)
        with self._faults_named(sha256), self._files.open(self._location(sha256), "rb") as file:
            file.seek(offset_bytes)
            return bytes(file.read(limit_bytes))

    def size_bytes(self, sha256: str) -> int:
        """The blob's size. BlobNotFoundError."""
        with self._faults_named(sha256):
            return int(self._files.size(self._location(sha256)))

    def local_path(self, sha256: str) -> pathlib.Path:
        """A local, read-only file with the blob, verified; fetched if the store is remote.

        BlobNotFoundError, BlobCorruptError.
        """
        location = self._location(sha256)
        if self._is_local:
            path = pathlib.Path(location)
            with self._faults_named(sha256):
                verify_file(path, sha256)
            return path
        path = self._cached(sha256)
        if path.exists():
            try:
                verify_file(path, sha256)
            except BlobCorruptError:
                log.warning("a damaged copy is fetched again", extra={"sha256": sha256, "path": str(path)})
                path.unlink(missing_ok=True)
            else:
                return path
        self._fetch(sha256, path)
        return path

    def _fetch(self, sha256: str, path: pathlib.Path) -> None:
        partial = path.with_name(f"{sha256}.{uuid.uuid4().hex}.partial")
        with self._faults_named(sha256, writes_to=str(path.parent)):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(self._location(sha256), str(partial))
                verify_file(partial, sha256, location=self._location(sha256))
                partial.rename(path)
            finally:
                partial.unlink(missing_ok=True)

    def _verify(self, sha256: str) -> None:
        """BlobNotFoundError, BlobCorruptError. Does nothing while the file is as it was when it was last verified."""
        location = self._location(sha256)
        with self._faults_named(sha256):
            seen = self._files.ukey(location)  # a digest of size, time of change, inode or ETag
            if self._verified.get(sha256) == seen:
                return
            with self._files.open(location, "rb") as file:
                _check(file, sha256, location=location)
        self._verified[sha256] = seen
        while len(self._verified) > MAX_VERIFIED:
            self._verified.popitem(last=False)

    def _is_intact(self, sha256: str) -> bool:
        """Whether the store has the blob, undamaged."""
        try:
            self._verify(sha256)
        except BlobNotFoundError:
            return False
        except BlobCorruptError as error:
            log.warning("a damaged blob is stored again", extra=error.metadata)
            return False
        return True

    @property
    def local_folder(self) -> pathlib.Path | None:
        """The folder of the store; None for a remote one."""
        return pathlib.Path(self._root) if self._is_local else None

    def list(self) -> Iterator[StoredBlob]:
        """Every blob."""
        with self._faults_named():
            found = self._files.find(self._root, detail=True)
        for path, info in found.items():
            if SHA256.fullmatch(name := path.rpartition("/")[2]):
                yield StoredBlob(name, int(info["size"]), _modified_time(info))

    def delete_older(self, sha256: str, cutoff_time: float) -> bool:
        """Removes the blob unless it is younger than that, or was stored again since it was listed. Whether it did."""
        with contextlib.suppress(BlobNotFoundError), self._faults_named(sha256), self._locked(fcntl.LOCK_EX):
            if _modified_time(self._files.info(self._location(sha256))) < cutoff_time:
                self.delete(sha256)
                return True
        return False

    def renew(self, sha256: str) -> bool:
        """Whether the blob is there. It then counts as new, so that no sweep takes it from its next owner."""
        location = self._location(sha256)
        with contextlib.suppress(BlobNotFoundError), self._faults_named(sha256), self._locked(fcntl.LOCK_SH):
            if self._is_local:
                os.utime(location)
                return True
            # An object cannot be touched; an old one is written again.
            return _modified_time(self._files.info(location)) > time.time() - RENEWAL_S
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
        with contextlib.suppress(BlobNotFoundError), self._faults_named(sha256):
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
            with self._faults_named(sha256, writes_to=self._shown):
                if self._is_local:
                    write_atomically(pathlib.Path(location), chunks)
                else:  # through the cache: an interrupted stream could be published as if it were complete
                    write_atomically(self._cached(sha256), chunks)
                    self._files.put_file(str(self._cached(sha256)), location)
        except BlobNotFoundError as error:  # the store has no such bucket or folder
            raise BlobStoreUnavailableError(self._shown, error) from error

    @contextlib.contextmanager
    def _faults_named(self, sha256: str = "", *, writes_to: str = "") -> Iterator[None]:
        """Errors of a file system as ours. `writes_to`: whose disk may be full. Remote ones raise any type."""
        try:
            with disk_full_named(writes_to or self._shown):
                yield
        except LuthierError:
            raise
        except FileNotFoundError:
            raise BlobNotFoundError(sha256) from None
        except Exception as error:
            if self._is_local and not isinstance(error, OSError):
                raise
            log.warning("the blob store cannot be used", extra={"location": self._shown, "error": repr(error)[:500]})
            raise BlobStoreUnavailableError(self._shown, error) from error


def _opened(url: str | pathlib.Path) -> tuple[Any, str]:
    """The file system and the path in it. ConfigError."""
    if isinstance(url, pathlib.Path):  # not as a URL, in which some characters of its name have a meaning
        return fsspec.filesystem("file", use_listings_cache=False), str(url)
    try:
        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError, OSError) as error:
        scheme = url.partition(":")[0]
        raise ConfigError(
            f"LUTHIER_BLOBS_URL: {scheme}:// cannot be opened ({error}); `pip install 'luthier[s3]'` adds s3://, "
            "other file systems of fsspec are installed by name",
            metadata={"variable": "LUTHIER_BLOBS_URL", "scheme": scheme},
        ) from error
    return files, root


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


def verify_file(path: pathlib.Path, sha256: str, *, location: str = "") -> None:
    """BlobCorruptError unless the file has that digest. `location`: what the error calls it; empty: its path."""
    with path.open("rb") as file:
        _check(file, sha256, location=location or str(path))


def _check(file: IO[bytes], sha256: str, *, location: str) -> None:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise BlobCorruptError.of(sha256, location=location, actual_sha256=digest.hexdigest())


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
