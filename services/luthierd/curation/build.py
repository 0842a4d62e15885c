"""Curation's composition root."""

from __future__ import annotations

import asyncio
import pathlib

from luthierd.curation.api.dataset_service import DatasetServicer
from luthierd.curation.config import CurationConfig
from luthierd.curation.datasets import Datasets
from luthierd.curation.revisions import Revisions
from luthierd.curation.sources.rows import ImportLimits
from luthierd.curation.store import SqlDatasetStore
from luthierd.jobs.launcher import Launcher
from luthierd.jobs.queue import JobQueue
from luthierd.rpc.auth import TokenVerifier
from luthierd.rpc.server import Service
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.replays import SqlReplayStore

VERSIONS = pathlib.Path(__file__).parent / "versions"


async def build(
    config: CurationConfig, *, database: Database | None = None, verifier: TokenVerifier | None = None
) -> Service:
    """The service over a migrated database. Tests pass the parts that they replace."""
    database = database or Database.of(config, "curation")
    await database.migrate(VERSIONS)
    blobs = BlobStore.of(config)
    queue = JobQueue(database, lease_s=config.lease_s)
    launcher = Launcher.of(config, "curation", queue)
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
        servicers=[DatasetServicer(datasets, revisions, queue, replays=replays, stopping=stopping)],
        verifier=verifier or TokenVerifier.of(config),
        replays=replays,
        background=[launcher.run],
        close=[database.close],
        stopping=stopping,
    )
