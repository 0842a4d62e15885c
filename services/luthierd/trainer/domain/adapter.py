"""Adapters and their revisions, which training or an import makes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from luthierd.errors import FailedPreconditionError, NotFoundError


class AdapterNotFoundError(NotFoundError):
    """No such adapter."""

    reason = "ADAPTER_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no adapter {name}; ListAdapters names those there are", metadata={"adapter": name})


class AdapterRevisionNotFoundError(NotFoundError):
    """No such adapter revision."""

    reason = "ADAPTER_REVISION_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no adapter revision {name}; ListAdapterRevisions names those there are",
            metadata={"adapter_revision": name},
        )


class AdapterFileNotFoundError(NotFoundError):
    """The revision has no such file."""

    reason = "ADAPTER_FILE_NOT_FOUND"

    def __init__(self, revision: str, path: str, files: Iterable[str]) -> None:
        super().__init__(
            f"{revision} has no file {path[:200]!r}; it has {', '.join(sorted(files))}",
            metadata={"adapter_revision": revision, "path": path[:200]},
        )


class AdapterBaseMismatchError(FailedPreconditionError):
    """The adapter's revisions belong to another base model; a deployment could not go from one to the other."""

    reason = "ADAPTER_BASE_MISMATCH"

    def __init__(self, adapter: str, *, belongs_to: str, wanted: str) -> None:
        super().__init__(
            f"{adapter} belongs to {belongs_to}, not to {wanted}; train another adapter, or on {belongs_to}",
            metadata={"adapter": adapter, "base_model": belongs_to, "wanted_base_model": wanted},
        )


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A named line of adapter revisions."""

    name: str
    create_time: float
    latest_revision: str
    """Empty before the first."""


@dataclass(frozen=True, kw_only=True)
class AdapterRevision:
    """The immutable result of a training job or an import. What only the other kind has is empty."""

    name: str
    create_time: float
    sha256: str
    size_bytes: int
    base_model: str
    base_model_sha256: str
    dataset_revision: str
    dataset_sha256: str
    rank: int
    target_modules: tuple[str, ...]
    validation_loss: float | None
    """None: there was no validation split."""
    training_job: str = ""
    adapter_import: str = ""
    source_sha256: str = ""
    """Of the manifest of the files that were imported."""
