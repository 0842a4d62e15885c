"""The trainer's worker process: `python -m luthierd.trainer.worker <job name>`. Imports models, trains adapters."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import time
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from luthierd.codec import from_json, to_json
from luthierd.jobs.worker import JobCancelled, JobContext, Outcome, run_worker
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.trainer.config import TrainerConfig
from luthierd.trainer.domain import ImportSource, TrainingProgress, TrainingTask
from luthierd.trainer.store import IMPORT, add_adapter_revision, set_base_model_info


def import_recipes() -> None:
    """Imports torch, which takes longer than a short lease lasts."""
    importlib.import_module("luthierd.trainer.recipes.sft_run")


async def work(context: JobContext, config: TrainerConfig, _database: Database) -> Outcome:
    """Imports a base model or trains an adapter."""
    run = import_base_model if context.job.kind == IMPORT else train_adapter
    return await run(context, BlobStore.of(config), config)


async def import_base_model(context: JobContext, blobs: BlobStore, config: TrainerConfig) -> Outcome:
    """Reads the source, stores the files, and registers what they are."""
    from luthierd.trainer.recipes.import_run import import_base_model as read_source

    payload = context.job.payload
    source = from_json(ImportSource, payload["source"])
    folder = config.scratch / context.job.name
    try:
        info = await asyncio.to_thread(read_source, source, folder, blobs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(to_json(info), lambda tx: set_base_model_info(tx, payload["base_model"], info))


async def train_adapter(context: JobContext, blobs: BlobStore, config: TrainerConfig) -> Outcome:
    """Trains, stores the adapter, and gives it its revision number together with the job's end."""
    from luthierd.trainer.blocks.errors import TrainingCancelled
    from luthierd.trainer.recipes.sft_run import Folders, run_sft

    job, task = context.job, from_json(TrainingTask, context.job.payload)
    folders = Folders(
        checkpoints=config.checkpoints / job.name,
        adapter=config.scratch / job.name,
        base_model=config.scratch / "base_models" / task.base_model_info.sha256,
    )
    try:
        made = await asyncio.to_thread(
            run_sft, task, training_job=job.name, blobs=blobs, folders=folders, report=JobReport(context)
        )
    except TrainingCancelled:
        shutil.rmtree(folders.checkpoints, ignore_errors=True)
        raise JobCancelled from None
    finally:
        shutil.rmtree(folders.adapter, ignore_errors=True)
    content: dict[str, Any] = {
        "size_bytes": made.size_bytes,
        "base_model": task.base_model,
        "base_model_sha256": task.base_model_info.sha256,
        "dataset_revision": task.dataset.name,
        "dataset_sha256": task.dataset.sha256,
        "rank": task.config.rank,
        "target_modules": list(made.target_modules),
        "validation_loss": made.validation_loss,
    }
    result: dict[str, Any] = {"sha256": made.sha256}

    async def commit(tx: AsyncConnection) -> None:
        # The number is known only inside the transaction, which writes `result` after this.
        result["adapter_revision"] = await add_adapter_revision(
            tx, task.adapter, training_job=job.name, sha256=made.sha256, content=content, now=time.time()
        )
        shutil.rmtree(folders.checkpoints, ignore_errors=True)

    return Outcome(result, commit)


class JobReport:
    """See `recipes.sft.Report`: passes on to the job's events."""

    def __init__(self, context: JobContext) -> None:
        self._context = context

    def progress(self, progress: TrainingProgress) -> None:
        """As an event, and as the job's progress."""
        self._context.emit("progress", to_json(progress))

    def message(self, text: str) -> None:
        """As an event."""
        self._context.emit("message", {"message": text})

    def settle(self) -> None:
        """Waits until all of it is written."""
        self._context.settle()

    def cancelled(self) -> bool:
        """Whether a cancel was asked for."""
        return self._context.cancelled()


if __name__ == "__main__":
    run_worker("trainer", TrainerConfig, work, prepare=import_recipes)
