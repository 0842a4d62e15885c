"""The trainer's server: `python -m luthierd.trainer`. Builds the parts and connects them."""

from __future__ import annotations

import pathlib

from luthier import AsyncClient

from luthierd.jobs.launcher import Launcher
from luthierd.jobs.queue import JobQueue
from luthierd.rpc.auth import TokenIssuer, TokenVerifier
from luthierd.rpc.main import run
from luthierd.rpc.peers import endpoints_of
from luthierd.rpc.server import serve
from luthierd.storage.database import Database
from luthierd.storage.replays import SqlReplayStore
from luthierd.trainer.adapters import Adapters
from luthierd.trainer.api.curation_catalog import CurationCatalog
from luthierd.trainer.api.training_service import trainer_service
from luthierd.trainer.base_models import BaseModels
from luthierd.trainer.config import TrainerConfig
from luthierd.trainer.jobs import TrainingJobs
from luthierd.trainer.store import SqlStore

VERSIONS = pathlib.Path(__file__).parent / "versions"


async def main(config: TrainerConfig) -> None:
    """Serves until a signal."""
    verifier, issuer = TokenVerifier.from_file(config.verify_key), TokenIssuer.from_file(config.signing_key)
    database = Database(config.database_url_of("trainer"), schema="trainer")
    await database.migrate(VERSIONS)
    queue = JobQueue(database, lease_s=config.lease_s)
    launcher = Launcher(
        queue,
        module="luthierd.trainer.worker",
        worker_count=config.worker_count,
        log_folder=config.home / "logs/trainer-workers",
    )
    store = SqlStore(database, queue)
    client = AsyncClient(endpoints_of(config))
    base_models = BaseModels(store, import_roots=config.import_root_paths, wake=launcher.wake)
    jobs = TrainingJobs(
        store,
        queue,
        base_models=base_models,
        datasets=CurationCatalog(client, issuer, timeout_s=config.dataset_timeout_s),
        wake=launcher.wake,
    )
    service = trainer_service(
        base_models=base_models,
        jobs=jobs,
        adapters=Adapters(store),
        queue=queue,
        verifier=verifier,
        replays=SqlReplayStore(database),
        background=[launcher.run],
        close=[client.close, database.close],
    )
    await serve(service, config)


if __name__ == "__main__":
    run("trainer", TrainerConfig, main)
