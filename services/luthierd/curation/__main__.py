"""Curation's server: `python -m luthierd.curation`."""

from __future__ import annotations

import asyncio
import pathlib

from luthierd.curation.api.dataset_service import DatasetServicer
from luthierd.curation.config import CurationConfig
from luthierd.curation.datasets import Datasets
from luthierd.curation.revisions import Revisions
from luthierd.curation.sources.jsonl import ImportLimits
from luthierd.curation.store import SqlDatasetStore
from luthierd.jobs.launcher import Launcher
from luthierd.jobs.queue import JobQueue
from luthierd.rpc.auth import TokenVerifier
from luthierd.rpc.main import run
from luthierd.rpc.server import Service, serve
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.replays import SqlReplayStore

VERSIONS = pathlib.Path(__file__).parent / "versions"


async def build(config: CurationConfig, verifier: TokenVerifier) -> Service:
    """The service with everything it is made of; its database is migrated."""
    database = Database(config.database_url_of("curation"), schema="curation")
    await database.migrate(VERSIONS)
    blobs = BlobStore(config.blobs, cache=config.home / "cache/blobs")
    queue = JobQueue(database, lease_s=config.lease_s)
    launcher = Launcher(
        queue,
        module="luthierd.curation.worker",
        worker_count=config.worker_count,
        log_folder=config.home / "logs/curation-workers",
    )
    store, replays, stopping = SqlDatasetStore(database, queue), SqlReplayStore(database), asyncio.Event()
    datasets = Datasets(
        store,
        blobs,
        limits=ImportLimits(config.max_row_bytes, config.max_row_count),
        max_import_bytes=config.max_import_bytes,
        spool_folder=config.home / "uploads",
    )
    revisions = Revisions(store, queue, blobs, wake=launcher.wake)
    return Service(
        name="curation",
        servicers=[DatasetServicer(datasets, revisions, queue, replays, stopping)],
        verifier=verifier,
        replays=replays,
        background=[launcher.run],
        close=[database.close],
        stopping=stopping,
    )


async def main(config: CurationConfig) -> None:
    """Serves until a signal."""
    await serve(await build(config, TokenVerifier.from_file(config.verify_key)), config)


if __name__ == "__main__":
    run("curation", CurationConfig, main)
