"""The trainer's composition root."""

from __future__ import annotations

import asyncio
import functools
import pathlib
import shutil

from luthier import AsyncClient

from luthierd.jobs.launcher import Launcher
from luthierd.jobs.queue import JobQueue
from luthierd.rpc.auth import TokenIssuer, TokenVerifier
from luthierd.rpc.peers import endpoints_of
from luthierd.rpc.server import Service
from luthierd.rpc.storage_service import Storage
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.replays import SqlReplayStore
from luthierd.storage.tombstones import Tombstones
from luthierd.trainer.adapter_imports import AdapterImports
from luthierd.trainer.adapters import Adapters
from luthierd.trainer.api.adapter_import_service import AdapterImportServicer
from luthierd.trainer.api.curation_catalog import CurationCatalog
from luthierd.trainer.api.training_service import AdapterServicer, BaseModelServicer, TrainingJobServicer
from luthierd.trainer.base_models import BaseModels
from luthierd.trainer.config import TrainerConfig
from luthierd.trainer.deletion import KINDS, REFERRERS, ROOTS
from luthierd.trainer.jobs import DatasetCatalog, TrainingJobs
from luthierd.trainer.store import SqlStore
from luthierd.trainer.uploads import Uploads

VERSIONS = pathlib.Path(__file__).parent / "versions"


async def build(
    config: TrainerConfig,
    *,
    database: Database | None = None,
    verifier: TokenVerifier | None = None,
    datasets: DatasetCatalog | None = None,
) -> Service:
    """The service over a migrated database. Tests pass the parts that they replace."""
    database = database or Database.of(config, "trainer")
    await database.migrate(VERSIONS)
    queue = JobQueue.of(config, database)
    launcher = Launcher.of(config, "trainer", queue, clean_up=functools.partial(_remove_files, config))
    store, client, stopping = SqlStore(database, queue), AsyncClient(endpoints_of(config)), asyncio.Event()
    base_models = BaseModels(store, import_roots=config.import_root_paths, wake=launcher.wake)
    datasets = datasets or CurationCatalog(client, TokenIssuer.of(config), timeout_s=config.dataset_timeout_s)
    jobs = TrainingJobs(
        store,
        queue,
        base_models=base_models,
        datasets=datasets,
        max_lora_rank=config.max_lora_rank,
        wake=launcher.wake,
    )
    blobs = BlobStore.of(config)
    uploads = Uploads(config.uploads, max_bytes=config.max_upload_bytes)
    imports = AdapterImports(store, queue, blobs, base_models=base_models, uploads=uploads, wake=launcher.wake)
    storage = Storage.of(
        config,
        "trainer",
        database,
        client=client,
        referrers=REFERRERS,
        kinds=KINDS,
        referred_by=["evaluator", "inference"],
        roots=ROOTS,
        copies=["cache/blobs", "trainer/scratch/base_models"],
        work=["trainer/checkpoints", "trainer/scratch"],
    )
    return Service(
        name="trainer",
        servicers=[
            BaseModelServicer(base_models, storage.deletions),
            TrainingJobServicer(jobs, queue, stopping, storage.deletions),
            AdapterServicer(Adapters(store, blobs), storage.deletions),
            AdapterImportServicer(imports, uploads, queue, stopping, storage.deletions),
            storage.servicer,
        ],
        verifier=verifier or TokenVerifier.of(config),
        replays=SqlReplayStore(database),
        tombstones=Tombstones(database),
        background=[launcher.run, storage.servicer.sweep],
        close=[client.close, database.close],
        stopping=stopping,
    )


def _remove_files(config: TrainerConfig, job: str) -> None:
    """Removes what a killed worker left of a cancelled job."""
    for folder in (config.checkpoints, config.scratch):
        shutil.rmtree(folder / job, ignore_errors=True)
