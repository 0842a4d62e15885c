"""How datasets and their revisions are deleted, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from luthierd.curation.datasets import DatasetNotFoundError
from luthierd.curation.domain import Dataset
from luthierd.curation.revisions import RevisionNotFoundError
from luthierd.jobs.queue import JobState
from luthierd.names import DATASET, DATASET_REVISION
from luthierd.storage.deletions import Kind, job_kind
from luthierd.storage.sweep import JOBS_NEED, RESULTS, Root

_datasets = sa.table(
    "datasets",
    *map(sa.column, ("name", "source_sha256", "row_count", "create_time", "update_time", "revision_count")),
    sa.column("latest_revision"),
)
_jobs = sa.table("jobs", *map(sa.column, ("name", "state", "create_time")))


def _revisions_of(name: str) -> sa.Select[Any]:
    return sa.select(_jobs.c.name).where(_jobs.c.name.startswith(f"{name}/revisions/", autoescape=True))


def _without_latest(name: str) -> Sequence[sa.Executable]:
    """The dataset's latest revision is the newest READY one that is left."""
    dataset = name.rpartition("/revisions/")[0]
    newest = _revisions_of(dataset).where(_jobs.c.state == JobState.SUCCEEDED)
    newest = newest.order_by(_jobs.c.create_time.desc()).limit(1)
    update = sa.update(_datasets).where(_datasets.c.name == dataset, _datasets.c.latest_revision == name)
    return [update.values(latest_revision=sa.func.coalesce(newest.scalar_subquery(), ""))]


KINDS = (
    Kind(
        pattern=DATASET,
        missing=DatasetNotFoundError,
        table=_datasets,
        digest="source_sha256",
        parts=lambda name: [_revisions_of(name)],
        etag=lambda row: Dataset(**row).etag,
        last_number="revision_count",
    ),
    job_kind(DATASET_REVISION, RevisionNotFoundError, also=_without_latest),
)

ROOTS = (JOBS_NEED, RESULTS, Root(table="datasets", columns=["source_sha256"], owner=sa.column("name", sa.Text)))
