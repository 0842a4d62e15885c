"""Atomic writes of files, and the error of a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import uuid
from collections.abc import Iterable, Iterator

from luthierd.errors import ResourceExhaustedError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_FULL_TEXTS = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
"""What is left of it in the errors of libraries such as safetensors."""

RETRY_AFTER_S = 10.0


class DiskFullError(ResourceExhaustedError):
    """No space is left on a disk, or a quota is spent."""

    reason = "DISK_FULL"

    @classmethod
    def below(cls, location: str) -> DiskFullError:
        """The error of a write at `location`."""
        return cls(
            f"no room on the disk of {location}; free some space and try again",
            metadata={"location": location},
            retry_after_s=RETRY_AFTER_S,
        )


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk is what `error` says, in whatever type."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return any(text in str(error) for text in _FULL_TEXTS)


def disk_full_error(error: BaseException) -> DiskFullError | None:
    """For borders: what `error` is if it says that a disk is full, else None."""
    if isinstance(error, DiskFullError):
        return error
    return DiskFullError.below(str(getattr(error, "filename", None) or "the service")) if is_disk_full(error) else None


@contextlib.contextmanager
def disk_full_named(location: pathlib.Path | str) -> Iterator[None]:
    """Raises DiskFullError where the block met a full disk."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise DiskFullError.below(str(location)) from error


def write_atomically(path: pathlib.Path, chunks: Iterable[bytes]) -> None:
    """Writes the whole file or nothing, even if the machine loses power. DiskFullError."""
    with disk_full_named(path.parent):
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
