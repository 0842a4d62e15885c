"""What can be wrong with a blob, or with the store of blobs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from luthierd.errors import DataLossError, NotFoundError, UnavailableError

RETRY_AFTER_S = 2.0


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

    @classmethod
    def of(cls, sha256: str, *, location: str, actual_sha256: str) -> BlobCorruptError:
        """The error of a damaged copy at `location`."""
        return cls(
            f"the blob {sha256} is damaged: {location} has the sha256 {actual_sha256}; restore this file from a backup "
            "or store the same bytes again, for instance by importing the same file",
            metadata={"sha256": sha256, "location": location, "actual_sha256": actual_sha256},
        )


class BlobStoreUnavailableError(UnavailableError):
    """The store of blobs does not answer, or refuses to read or write."""

    reason = "BLOB_STORE_UNAVAILABLE"

    def __init__(self, location: str, cause: BaseException) -> None:
        super().__init__(
            f"the blob store {location} cannot be used now ({type(cause).__name__}); see that it runs, that "
            "LUTHIER_BLOBS_URL names it, and that it may be read and written with the credentials of the service; the "
            "call can be repeated",
            metadata={"location": location, "cause": type(cause).__name__},
            retry_after_s=RETRY_AFTER_S,
        )


@contextlib.contextmanager
def about(resource: str) -> Iterator[None]:
    """Names the resource in errors about its blobs: a digest alone tells people nothing."""
    try:
        yield
    except (BlobNotFoundError, BlobCorruptError) as error:
        error.args = (f"{resource}: {error}",)
        error.metadata["resource"] = resource
        raise
