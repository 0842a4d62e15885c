"""One training job from digests to digest: fetches model and rows, runs the recipe, stores the adapter revision."""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
import shutil
from dataclasses import dataclass

from luthierd.codec import to_json
from luthierd.storage.blobs import BlobStore
from luthierd.storage.manifests import checkout, put_folder, read_manifest
from luthierd.trainer.artifacts import export_adapter
from luthierd.trainer.blocks.checkpoint import CheckpointFolder
from luthierd.trainer.blocks.encoding import EmptySplitError, encode_rows, read_rows
from luthierd.trainer.blocks.model import keep_freed_memory, load_model, load_tokenizer, resolve_dtype
from luthierd.trainer.blocks.references import reference_rows
from luthierd.trainer.domain import TrainingTask
from luthierd.trainer.recipes.sft import Report, train


@dataclass(frozen=True)
class Folders:
    """Where a run works."""

    checkpoints: pathlib.Path
    """Survives the worker: the next one resumes from it."""
    adapter: pathlib.Path
    """Of this run only; emptied."""
    base_model: pathlib.Path
    """The model's files, shared by all runs on it."""


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter in the blob store."""

    sha256: str
    size_bytes: int
    target_modules: tuple[str, ...]
    validation_loss: float | None


def run_sft(
    task: TrainingTask, *, training_job: str, blobs: BlobStore, folders: Folders, report: Report
) -> StoredAdapter:
    """TrainingCancelled, and the errors of the recipe: RowTooLongError, EmptySplitError, TrainingDivergedError, ..."""
    keep_freed_memory()
    checkout(blobs, task.base_model_info.sha256, folders.base_model)
    tokenizer = load_tokenizer(folders.base_model)
    digests = {"train": task.dataset.train_sha256, "validation": task.dataset.validation_sha256}
    splits = {
        split: encode_rows(
            list(read_rows(blobs.local_path(sha256))), tokenizer, limit_tokens=task.config.max_seq_length
        )
        for split, sha256 in digests.items()
        if sha256
    }
    rows, validation_rows = splits["train"], splits.get("validation", [])
    if not rows:
        raise EmptySplitError("train")
    dtype = resolve_dtype(task.config.dtype)
    longest = max(len(row.token_ids) for row in [*rows, *validation_rows])
    model = load_model(folders.base_model, dtype=dtype, longest_row_tokens=longest)
    pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    trained = train(
        model,
        rows,
        validation_rows=validation_rows,
        config=task.config,
        pad_token_id=pad_token_id,
        checkpoints=CheckpointFolder(folders.checkpoints, fingerprint=fingerprint(task)),
        report=report,
    )
    shutil.rmtree(folders.adapter, ignore_errors=True)
    export_adapter(
        folders.adapter,
        trained,
        name=task.adapter,
        training_job=training_job,
        task=task,
        row_counts={split: len(encoded) for split, encoded in splits.items()},
        dtype=str(dtype).removeprefix("torch."),
        references=reference_rows(model, validation_rows or rows),
    )
    manifest = put_folder(blobs, folders.adapter)
    has_loss = not math.isnan(trained.validation_loss)
    return StoredAdapter(
        sha256=manifest.sha256,
        size_bytes=read_manifest(blobs, manifest.sha256).size_bytes,
        target_modules=trained.target_modules,
        validation_loss=trained.validation_loss if has_loss else None,
    )


def fingerprint(task: TrainingTask) -> str:
    """Identifies a run: the same data, model and settings give the same losses."""
    return hashlib.sha256(json.dumps(to_json(task), sort_keys=True).encode()).hexdigest()
