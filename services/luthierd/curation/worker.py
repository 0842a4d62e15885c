"""The worker process of one curation: `python -m luthierd.curation.worker tenants/T/datasets/D/revisions/R`."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import sys

from luthierd.curation.config import CurationConfig
from luthierd.curation.curation_run import curate_source
from luthierd.curation.domain import RevisionContent, Step
from luthierd.curation.recipe import parse_recipe
from luthierd.curation.stages.pii import Scanner
from luthierd.curation.store import set_latest_revision
from luthierd.jobs.worker import JobContext, Outcome, run_worker
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database

UNUSED_PACKAGES = ("torch", "transformers")
"""spaCy and Presidio import them where they are installed, for models not used here: 11 of 14 s of the start."""


async def work(context: JobContext, config: CurationConfig, _database: Database) -> Outcome:
    """Curates the revision."""
    content = await asyncio.to_thread(curate_job, context, BlobStore.of(config))
    return Outcome(content.to_json(), lambda connection: set_latest_revision(connection, context.job.name))


def curate_job(context: JobContext, blobs: BlobStore) -> RevisionContent:
    """The work itself, in a thread. JobCancelled soon after a cancel was asked for."""

    def progress(step: Step, done: int, total: int) -> None:
        context.raise_if_cancelled()
        context.emit("progress", {"step": step.value, "done_row_count": done, "total_row_count": total})

    payload = context.job.payload
    progress(Step.CLEAN, 0, payload["row_count"])
    scanner, scanner_versions = load_scanner()
    return curate_source(
        context.job.name,
        payload["source_sha256"],
        parse_recipe(payload["recipe"]),
        blobs=blobs,
        scanner=scanner,
        versions=versions() | scanner_versions,
        progress=progress,
    )


def load_scanner() -> tuple[Scanner, dict[str, str]]:
    """Presidio with its model, in this process only: it makes `UNUSED_PACKAGES` impossible to import."""
    for package in UNUSED_PACKAGES:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # None: "not installed" to every later import
    from luthierd.curation.presidio import PresidioScanner, scanner_versions

    return PresidioScanner(), scanner_versions()


def versions() -> dict[str, str]:
    """What the content depends on, beside the scanner."""
    packages = {package: importlib.metadata.version(package) for package in ("luthier", "rensa")}
    return packages | {"python": platform.python_version()}


if __name__ == "__main__":
    run_worker("curation", CurationConfig, work)
