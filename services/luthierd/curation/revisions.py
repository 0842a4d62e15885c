"""Dataset revisions: begun as durable jobs, immutable once READY."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luthierd.codec import from_json
from luthierd.curation.datasets import DatasetNotFoundError
from luthierd.curation.domain import REVISION_KIND, RevisionContent, Split
from luthierd.curation.recipe import Recipe
from luthierd.curation.store import SqlDatasetStore
from luthierd.errors import FailedPreconditionError, NotFoundError
from luthierd.jobs.queue import Job, JobNotFoundError, JobQueue, JobState
from luthierd.names import DATASET, DATASET_REVISION, TENANT
from luthierd.paging import Page, PageRequest
from luthierd.storage.blob_errors import about
from luthierd.storage.blobs import BlobStore, Piece, read_piece

EVERY_DATASET = "-"


class RevisionNotFoundError(NotFoundError):
    """No such revision."""

    reason = "DATASET_REVISION_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no revision {name}; `luthier dataset list` shows those there are",
            metadata={"dataset_revision": name},
        )


class RevisionNotReadyError(FailedPreconditionError):
    """The revision has no content (yet)."""

    reason = "DATASET_REVISION_NOT_READY"

    def __init__(self, name: str, state: JobState) -> None:
        shown = {JobState.QUEUED: "CURATING", JobState.RUNNING: "CURATING"}.get(state, state.value)
        advice = "curate again" if state.is_final else "wait until it is"
        super().__init__(f"{name} is {shown}, not READY; {advice}", metadata={"dataset_revision": name, "state": shown})


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A revision as it is now. `content` is there once `state` is SUCCEEDED, which is called READY outside."""

    name: str
    state: JobState
    source_sha256: str
    recipe: Mapping[str, Any]
    """As it was applied, in plain values: its stages may no longer be installed."""
    content: RevisionContent | None
    error: dict[str, Any] | None
    create_time: float
    end_time: float | None


class Revisions:
    """The use cases. `wake` is called when there is work."""

    def __init__(self, store: SqlDatasetStore, queue: JobQueue, blobs: BlobStore, *, wake: Callable[[], None]) -> None:
        self._store = store
        self._queue = queue
        self._blobs = blobs
        self._wake = wake

    async def curate(self, dataset_name: str, recipe: Recipe) -> Revision:
        """Begins a revision of the dataset's present source. DatasetNotFoundError."""
        DATASET.parse(dataset_name)
        job = await self._store.begin_revision(dataset_name, recipe.to_json())
        if job is None:
            raise DatasetNotFoundError(dataset_name)
        self._wake()
        return _revision(job)

    async def get(self, name: str) -> Revision:
        """RevisionNotFoundError."""
        DATASET_REVISION.parse(name)
        try:
            return _revision(await self._queue.get(name))
        except JobNotFoundError:
            raise RevisionNotFoundError(name) from None

    async def list(self, parent: str, page_size: int, page_token: str) -> Page[Revision]:
        """A page of a dataset's revisions, newest first; of all datasets for `tenants/{tenant}/datasets/-`."""
        page = PageRequest.parse(page_size, page_token, "revisions", parent)
        if parent.endswith(f"/datasets/{EVERY_DATASET}"):
            TENANT.parse(parent.removesuffix(f"/datasets/{EVERY_DATASET}"), field="parent")
            prefix = parent.removesuffix(EVERY_DATASET)
        else:
            DATASET.parse(parent, field="parent")
            if await self._store.get(parent) is None:
                raise DatasetNotFoundError(parent)
            prefix = f"{parent}/revisions/"
        jobs = await self._queue.list(prefix, page, kind=REVISION_KIND)
        return Page(tuple(_revision(job) for job in jobs.items), jobs.next_page_token)

    async def cancel(self, name: str) -> Revision:
        """Asks a running curation to end; a finished revision stays as it is. RevisionNotFoundError."""
        await self.get(name)
        return _revision(await self._queue.cancel(name))

    async def read(self, name: str, part: Split | None, *, offset_bytes: int, limit_bytes: int) -> Piece:
        """A piece of a split's JSONL, or of the datasheet (None). RevisionNotReadyError."""
        revision = await self.get(name)
        if revision.content is None:
            raise RevisionNotReadyError(name, revision.state)
        sha256 = revision.content.datasheet_sha256
        if part is not None:
            sha256 = next(file.sha256 for file in revision.content.splits if file.split is part)
        with about(f"the {part.value} split of {name}" if part else f"the datasheet of {name}"):
            return await asyncio.to_thread(
                read_piece, self._blobs, sha256, offset_bytes=offset_bytes, limit_bytes=limit_bytes
            )


def _revision(job: Job) -> Revision:
    return Revision(
        name=job.name,
        state=job.state,
        source_sha256=job.payload["source_sha256"],
        recipe=job.payload["recipe"],
        content=from_json(RevisionContent, job.result) if job.result else None,
        error=job.error,
        create_time=job.create_time,
        end_time=job.end_time,
    )
