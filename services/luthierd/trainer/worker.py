"""The trainer's worker process: `python -m luthierd.trainer.worker <job name>`. Imports models, trains adapters.

torch is imported here, at the top: it takes longer than a short lease lasts, so it must be there before the claim.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import math
import pathlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from luthierd.codec import from_json, to_json
from luthierd.jobs.worker import JobCancelled, JobContext, Outcome, run_worker
from luthierd.storage.blob_errors import about
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.manifests import checkout, put_folder, read_manifest
from luthierd.trainer import base_model_files
from luthierd.trainer.artifacts import export_adapter
from luthierd.trainer.base_model_files import BaseModelInvalidError
from luthierd.trainer.base_model_hub import fetch_model
from luthierd.trainer.blocks.checkpoint import CheckpointFolder
from luthierd.trainer.blocks.encoding import EmptySplitError, read_rows
from luthierd.trainer.blocks.model import keep_freed_memory, load_model, load_tokenizer, resolve_dtype
from luthierd.trainer.config import TrainerConfig
from luthierd.trainer.domain.adapter_import import AdapterImportTask
from luthierd.trainer.domain.base_model import BaseModelInfo, ImportSource
from luthierd.trainer.domain.training import TrainingProgress, TrainingTask
from luthierd.trainer.importing import import_adapter
from luthierd.trainer.loop import Report, TrainingCancelled, train
from luthierd.trainer.recipes.recipe import make_recipe
from luthierd.trainer.references import reference_rows
from luthierd.trainer.store import IMPORT, IMPORT_ADAPTER, add_adapter_revision, set_base_model_info


async def work(context: JobContext, config: TrainerConfig, _database: Database) -> Outcome:
    """Imports a base model or an adapter, or trains an adapter."""
    run = {IMPORT: import_base_model, IMPORT_ADAPTER: bring_adapter}.get(context.job.kind, train_adapter)
    return await run(context, BlobStore.of(config), config)


async def import_base_model(context: JobContext, blobs: BlobStore, config: TrainerConfig) -> Outcome:
    """Reads the source, stores the files, and registers what they are."""
    payload = context.job.payload
    source = from_json(ImportSource, payload["source"])
    if source.kind == "hub":
        info = await asyncio.to_thread(import_from_hub, source, config.scratch / payload["base_model"] / "hub", blobs)
        return Outcome(to_json(info), lambda tx: set_base_model_info(tx, payload["base_model"], info))
    folder = config.scratch / context.job.name
    try:
        info = await asyncio.to_thread(base_model_files.import_base_model, source, folder, blobs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(to_json(info), lambda tx: set_base_model_info(tx, payload["base_model"], info))


def import_from_hub(source: ImportSource, root: pathlib.Path, blobs: BlobStore) -> BaseModelInfo:
    """Fetches the model below `root`, where an earlier attempt may have left a part, and stores it."""
    is_whole = False
    try:
        fetched = fetch_model(source.value, source.revision, root)
        info = base_model_files.inspect(fetched.folder, blobs)
        is_whole = True
    except BaseModelInvalidError:
        is_whole = True  # another attempt would end in the same way
        raise
    finally:
        if is_whole:
            shutil.rmtree(root, ignore_errors=True)
    return dataclasses.replace(info, hub_commit=fetched.commit)


async def bring_adapter(context: JobContext, blobs: BlobStore, config: TrainerConfig) -> Outcome:
    """Checks, normalises and stores an adapter from elsewhere, and numbers its revision together with the job's end."""
    job, task = context.job, from_json(AdapterImportTask, context.job.payload)
    try:
        made = await asyncio.to_thread(
            import_adapter, task, name=job.name, blobs=blobs, config=config, begin=StepReport(context)
        )
    finally:
        shutil.rmtree(config.scratch / job.name, ignore_errors=True)
    content: dict[str, Any] = {
        "size_bytes": made.size_bytes,
        "base_model": task.base_model,
        "base_model_sha256": task.base_model_info.sha256,
        "dataset_revision": "",
        "dataset_sha256": "",
        "rank": made.rank,
        "target_modules": list(made.target_modules),
        "validation_loss": None,
        "source_sha256": task.source_sha256,
    }
    return _revision_outcome(task.adapter, job=job.name, made_sha256=made.sha256, content=content, notes=made.notes)


async def train_adapter(context: JobContext, blobs: BlobStore, config: TrainerConfig) -> Outcome:
    """Trains, stores the adapter, and numbers its revision together with the job's end."""
    job, task = context.job, from_json(TrainingTask, context.job.payload)
    try:
        made = await asyncio.to_thread(
            run_training, task, training_job=job.name, blobs=blobs, config=config, report=JobReport(context)
        )
    except TrainingCancelled:
        shutil.rmtree(config.checkpoints / job.name, ignore_errors=True)
        raise JobCancelled from None
    finally:
        shutil.rmtree(config.scratch / job.name, ignore_errors=True)
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
    return _revision_outcome(
        task.adapter, job=job.name, made_sha256=made.sha256, content=content, clean_up=config.checkpoints / job.name
    )


def _revision_outcome(
    adapter: str,
    *,
    job: str,
    made_sha256: str,
    content: dict[str, Any],
    notes: Sequence[str] = (),
    clean_up: pathlib.Path | None = None,
) -> Outcome:
    """The end of a job that adds a revision to `adapter`."""
    result: dict[str, Any] = {"sha256": made_sha256, "notes": list(notes)}

    async def commit(tx: AsyncConnection) -> None:
        # The number is known only inside the transaction, which writes `result` after this.
        result["adapter_revision"] = await add_adapter_revision(
            tx, adapter, job=job, sha256=made_sha256, content=content, now=time.time()
        )
        if clean_up is not None:
            shutil.rmtree(clean_up, ignore_errors=True)

    return Outcome(result, commit)


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter in the blob store."""

    sha256: str
    size_bytes: int
    target_modules: tuple[str, ...]
    validation_loss: float | None


def run_training(
    task: TrainingTask, *, training_job: str, blobs: BlobStore, config: TrainerConfig, report: Report
) -> StoredAdapter:
    """One training job from digests to digest: fetches model and rows, trains, stores the adapter.

    Checkpoints outlive the worker; the next one resumes from them. TrainingCancelled; the errors of recipe and loop.
    """
    keep_freed_memory()
    recipe = make_recipe(task.config)
    base_model = config.scratch / "base_models" / task.base_model_info.sha256  # shared by all runs on it
    with about(task.base_model):
        checkout(blobs, task.base_model_info.sha256, base_model)
    tokenizer = load_tokenizer(base_model)
    digests = {"train": task.dataset.train_sha256, "validation": task.dataset.validation_sha256}
    files = {}
    for split, sha256 in digests.items():
        if sha256:
            with about(f"the {split} split of {task.dataset.name}"):
                files[split] = blobs.local_path(sha256)
    splits = {split: recipe.encode(list(read_rows(path)), tokenizer) for split, path in files.items()}
    rows, validation_rows = splits["train"], splits.get("validation", [])
    if not rows:
        raise EmptySplitError("train")
    dtype = resolve_dtype(task.config.dtype)
    longest = max(row.token_count for row in [*rows, *validation_rows])
    model = load_model(base_model, dtype=dtype, longest_row_tokens=longest)
    trained = train(
        model,
        recipe,
        rows,
        validation_rows=validation_rows,
        checkpoints=CheckpointFolder(config.checkpoints / training_job, fingerprint=fingerprint(task)),
        report=report,
    )
    folder = config.scratch / training_job
    shutil.rmtree(folder, ignore_errors=True)
    export_adapter(
        folder,
        trained,
        task=task,
        training_job=training_job,
        method_description=recipe.description,
        row_counts={split: len(examples) for split, examples in splits.items()},
        dtype=str(dtype).removeprefix("torch."),
        references=reference_rows(
            model,
            [row.prompt_ids for row in validation_rows or rows],
            without_adapter=trained.weights.disabled,
        ),
    )
    manifest = put_folder(blobs, folder)
    return StoredAdapter(
        sha256=manifest.sha256,
        size_bytes=read_manifest(blobs, manifest.sha256).size_bytes,
        target_modules=trained.weights.target_modules,
        validation_loss=None if math.isnan(trained.validation_loss) else trained.validation_loss,
    )


def fingerprint(task: TrainingTask) -> str:
    """Identifies a run: the same data, model and settings give the same losses."""
    return hashlib.sha256(json.dumps(to_json(task), sort_keys=True).encode()).hexdigest()


class StepReport:
    """Passes the steps of an import on as events, and stops it between two of them when it is cancelled."""

    def __init__(self, context: JobContext) -> None:
        self._context = context

    def __call__(self, step: str) -> None:
        """JobCancelled."""
        self._context.raise_if_cancelled()
        self._context.emit("message", {"message": step})


class JobReport:
    """See `loop.Report`: passes reports on to the job's events."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self.settle, self.cancelled = context.settle, context.cancelled

    def progress(self, progress: TrainingProgress) -> None:
        """As an event, and as the job's progress."""
        self._context.emit("progress", to_json(progress))

    def message(self, text: str) -> None:
        """As an event."""
        self._context.emit("message", {"message": text})


if __name__ == "__main__":
    run_worker("trainer", TrainerConfig, work)
