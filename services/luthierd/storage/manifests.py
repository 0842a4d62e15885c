"""Artifacts of many files: a manifest is a blob that lists files by relative path and digest.

The digest of the manifest is the identity of the artifact.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import uuid
from dataclasses import dataclass

from luthierd.errors import DataLossError, NotFoundError
from luthierd.storage.blobs import SHA256, Blob, BlobStore

MAX_MANIFEST_BYTES = 1024 * 1024
MANIFEST_START = b'{"files":{'
"""Of the canonical form; other blobs may begin with it, too."""


class ManifestInvalidError(DataLossError):
    """The manifest has the wrong form, or a path that leaves the folder."""

    reason = "MANIFEST_INVALID"


@dataclass(frozen=True)
class Manifest:
    """The files of an artifact by relative POSIX path."""

    files: dict[str, Blob]

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(blob.size_bytes for blob in self.files.values())

    def to_json(self) -> bytes:
        """The canonical form, whose digest identifies the artifact."""
        files = {path: {"sha256": blob.sha256, "size_bytes": blob.size_bytes} for path, blob in self.files.items()}
        return json.dumps({"files": files}, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """ManifestInvalidError unless it is well-formed and all paths stay inside the folder."""
        try:
            entries = json.loads(data)["files"]
            files = {str(path): Blob(str(e["sha256"]), int(e["size_bytes"])) for path, e in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ManifestInvalidError(f"a manifest has the wrong form: {error}") from error
        for path, blob in files.items():
            if not SHA256.fullmatch(blob.sha256) or blob.size_bytes < 0:
                raise ManifestInvalidError(f"a manifest has no digest and size for {path!r}", metadata={"path": path})
            pure = pathlib.PurePosixPath(path)
            if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\\" in path or "\0" in path:
                raise ManifestInvalidError(
                    f"a manifest names the path {path!r}, which leaves its folder", metadata={"path": path}
                )
        return cls(files)


def put_folder(blobs: BlobStore, folder: pathlib.Path) -> Blob:
    """Stores every file below `folder`, then the manifest; returns the manifest's blob."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    manifest = Manifest({path.relative_to(folder).as_posix(): blobs.put_file(path) for path in paths})
    return blobs.put_bytes(manifest.to_json())


def read_manifest(blobs: BlobStore, sha256: str) -> Manifest:
    """The manifest of that digest. BlobNotFoundError, ManifestInvalidError."""
    if blobs.size_bytes(sha256) > MAX_MANIFEST_BYTES:
        raise ManifestInvalidError(
            f"the manifest {sha256} is larger than {MAX_MANIFEST_BYTES} bytes", metadata={"sha256": sha256}
        )
    return Manifest.from_json(blobs.read_bytes(sha256))


def files_of(blobs: BlobStore, sha256: str, *, size_bytes: int) -> set[str]:
    """Digests of the files that a blob lists if it is a manifest; none otherwise, or if it is gone."""
    if not len(MANIFEST_START) < size_bytes <= MAX_MANIFEST_BYTES:
        return set()
    try:
        if blobs.read_range(sha256, 0, len(MANIFEST_START)) != MANIFEST_START:
            return set()
        return {blob.sha256 for blob in read_manifest(blobs, sha256).files.values()}
    except (NotFoundError, ManifestInvalidError):  # gone meanwhile; rows that happen to begin like a manifest
        return set()


def checkout(blobs: BlobStore, manifest_sha256: str, folder: pathlib.Path) -> Manifest:
    """Puts the verified files of the artifact into `folder`: read-only hard links if the file system has them.

    BlobNotFoundError, BlobCorruptError, ManifestInvalidError.
    """
    manifest = read_manifest(blobs, manifest_sha256)
    for path, blob in manifest.files.items():
        _place(blobs.local_path(blob.sha256), folder / path)
    return manifest


def _place(source: pathlib.Path, target: pathlib.Path) -> None:
    """Links or copies. Another process may be reading `target`: it is there all the time, and replaced at once."""
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
    try:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
