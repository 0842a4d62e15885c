"""The worker process of one curation: `python -m luthierd.curation.worker tenants/T/datasets/D/revisions/R`."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
from collections.abc import Sequence

from luthierd.codec import to_json
from luthierd.curation.config import CurationConfig
from luthierd.curation.curating import curate_source
from luthierd.curation.domain import RevisionContent
from luthierd.curation.recipe import make_stages, parse_recipe
from luthierd.curation.stages.stage import Stage
from luthierd.curation.store import set_latest_revision
from luthierd.jobs.worker import JobContext, Outcome, run_worker
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database


async def work(context: JobContext, config: CurationConfig, _database: Database) -> Outcome:
    """Curates the revision."""
    content = await asyncio.to_thread(curate_job, context, BlobStore.of(config))
    return Outcome(to_json(content), lambda connection: set_latest_revision(connection, context.job.name))


def curate_job(context: JobContext, blobs: BlobStore) -> RevisionContent:
    """The work itself, in a thread. JobCancelled soon after a cancel."""

    def progress(stage: str, done: int, total: int) -> None:
        context.raise_if_cancelled()
        context.emit("progress", {"stage": stage, "done_row_count": done, "total_row_count": total})

    payload = context.job.payload
    recipe = parse_recipe(payload["recipe"])
    progress(recipe.stages[0].stage, 0, payload["row_count"])  # making the stages takes seconds
    stages = make_stages(recipe)
    return curate_source(
        payload["source_sha256"],
        stages,
        revision=context.job.name,
        recipe=recipe.to_json(),
        blobs=blobs,
        versions=versions_of(stages),
        progress=progress,
    )


def versions_of(stages: Sequence[Stage]) -> dict[str, str]:
    """What the content depends on."""
    packages = {"luthier": "luthier"}
    for stage in stages:
        packages |= stage.packages
    installed = {label: importlib.metadata.version(package) for label, package in packages.items()}
    return installed | {"python": platform.python_version()}


if __name__ == "__main__":
    run_worker("curation", CurationConfig, work)
