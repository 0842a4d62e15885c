"""How models, training jobs, imports, adapters and revisions are deleted, what they refer to and what they hold."""

from __future__ import annotations

import sqlalchemy as sa

from luthierd.jobs.queue import JobNotFoundError
from luthierd.names import ADAPTER, ADAPTER_IMPORT, ADAPTER_REVISION, BASE_MODEL, TRAINING_JOB
from luthierd.storage.deletions import Kind, job_kind
from luthierd.storage.references import JOBS, NAME, Referrers
from luthierd.storage.sweep import JOBS_NEED, Root
from luthierd.trainer.domain.adapter import AdapterNotFoundError, AdapterRevisionNotFoundError
from luthierd.trainer.domain.adapter_import import AdapterImportNotFoundError
from luthierd.trainer.domain.base_model import BaseModelNotFoundError

_models = sa.table("base_models", *map(sa.column, ("name", "import_job")), sa.column("info", sa.JSON))
_jobs = sa.table("jobs", sa.column("name"))
_adapters = sa.table("adapters", *map(sa.column, ("name", "revision_count")))
_revisions = sa.table("adapter_revisions", *map(sa.column, ("adapter", "number", "sha256", "training_job")))
_revision_name: sa.ColumnElement[str] = (
    sa.column("adapter", sa.Text) + "/revisions/r" + sa.cast(sa.column("number"), sa.Text)
)

REFERRERS = (
    JOBS,
    # An adapter without its base model is of no use; without its dataset or job it is.
    Referrers(
        table="adapter_revisions", columns=["content", "training_job"], name=_revision_name, needs_base_models=True
    ),
)

KINDS = (
    Kind(
        pattern=BASE_MODEL,
        missing=BaseModelNotFoundError,
        table=_models,
        digest="info.sha256",
        also=lambda name: [sa.delete(_jobs).where(_jobs.c.name.startswith(f"{name}/imports/", autoescape=True))],
    ),
    job_kind(TRAINING_JOB, JobNotFoundError),
    job_kind(ADAPTER_IMPORT, AdapterImportNotFoundError),
    Kind(
        pattern=ADAPTER,
        missing=AdapterNotFoundError,
        table=_adapters,
        digest="",
        parts=lambda name: [sa.select(_revision_name).select_from(_revisions).where(_revisions.c.adapter == name)],
        last_number="revision_count",
    ),
    Kind(
        pattern=ADAPTER_REVISION,
        missing=AdapterRevisionNotFoundError,
        table=_revisions,
        digest="sha256",
        where=lambda name: _revision_name == name,
    ),
)

ROOTS = (
    JOBS_NEED,
    Root(table="base_models", columns=["info"], owner=NAME),
    Root(table="adapter_revisions", columns=["sha256", "content"], owner=_revision_name),
)
