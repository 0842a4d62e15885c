"""Curation's composition root."""

from __future__ import annotations

import asyncio
import pathlib

from luthier.client import AsyncClient

from luthierd.curation.api.dataset_service import DatasetServicer
from luthierd.curation.config import CurationConfig
from luthierd.curation.datasets import Datasets
from luthierd.curation.deletion import KINDS, ROOTS
from luthierd.curation.revisions import Revisions
from luthierd.curation.sources.rows import ImportLimits
from luthierd.curation.store import SqlDatasetStore
from luthierd.jobs.launcher import Launcher
from luthierd.jobs.queue import JobQueue
from luthierd.rpc.auth import TokenVerifier
from luthierd.rpc.peers import endpoints_of
from luthierd.rpc.server import Service
from luthierd.rpc.storage_service import Storage
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.references import JOBS
from luthierd.storage.replays import SqlReplayStore
from luthierd.storage.tombstones import Tombstones

VERSIONS = pathlib.Path(__file__).parent / "versions"


async def build(
    config: CurationConfig,
    *,
    database: Database | None = None,
    verifier: TokenVerifier | None = None,
) -> Service:
    """The service over a migrated database. Tests pass the parts that they replace."""
    database = database or Database.of(config, "curation")
    await database.migrate(VERSIONS)
    blobs = BlobStore.of(config)
    queue = JobQueue.of(config, database)
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
    client = AsyncClient(endpoints_of(config), token="")
    storage = Storage.of(
        config,
        "curation",
        database,
        client=client,
        referrers=[JOBS],
        kinds=KINDS,
        referred_by=["trainer", "evaluator"],
        roots=ROOTS,
        copies=["cache/blobs"],
        spools=["uploads"],
        sweeps_store=True,
    )
    return Service(
        name="curation",
        servicers=[
            DatasetServicer(
                datasets, revisions, queue, replays=replays, stopping=stopping, deletions=storage.deletions
            ),
            storage.servicer,
        ],
        verifier=verifier or TokenVerifier.of(config),
        replays=replays,
        tombstones=Tombstones(database),
        background=[launcher.run, storage.servicer.sweep],
        close=[client.close, database.close],
        stopping=stopping,
    )
