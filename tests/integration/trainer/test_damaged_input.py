"""A training whose input was changed on the disk does not begin."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil

import pytest
from luthierd.storage.blob_errors import BlobCorruptError
from luthierd.storage.blobs import BlobStore
from luthierd.storage.manifests import read_manifest
from luthierd.trainer.base_model_files import inspect
from luthierd.trainer.config import TrainerConfig
from luthierd.trainer.domain.training import DatasetSplits, TrainingTask
from luthierd.trainer.worker import run_training
from support.toy_rows import rows_jsonl, toy_rows
from support.training_runs import CONFIG, Recorder

REVISION = "tenants/acme/datasets/toys/revisions/r1"


@pytest.fixture
def blobs(tmp_path: pathlib.Path) -> BlobStore:
    return BlobStore(f"file://{tmp_path / 'blobs'}")


@pytest.fixture
def task(tiny_llama: pathlib.Path, tmp_path: pathlib.Path, blobs: BlobStore) -> TrainingTask:
    folder = pathlib.Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    return TrainingTask(
        dataset=DatasetSplits(
            name=REVISION,
            sha256="d" * 64,
            train_sha256=blobs.put_bytes(rows_jsonl(toy_rows(18))).sha256,
            validation_sha256=blobs.put_bytes(rows_jsonl(toy_rows(6, split="validation"))).sha256,
        ),
        base_model="baseModels/tiny",
        base_model_info=inspect(folder, blobs),
        adapter="tenants/acme/adapters/support",
        config=dataclasses.replace(CONFIG, max_seq_length=512),
    )


@pytest.mark.parametrize(
    ("what", "resource"),
    [
        ("train", f"the train split of {REVISION}"),
        ("validation", f"the validation split of {REVISION}"),
        ("weights", "baseModels/tiny"),
        ("manifest", "baseModels/tiny"),
    ],
)
def test_one_changed_byte_fails_the_training_by_name(
    task: TrainingTask, blobs: BlobStore, tmp_path: pathlib.Path, what: str, resource: str
) -> None:
    info = task.base_model_info
    path = blobs.local_path(
        {
            "train": task.dataset.train_sha256,
            "validation": task.dataset.validation_sha256,
            "weights": read_manifest(blobs, info.sha256).files["model.safetensors"].sha256,
            "manifest": info.sha256,
        }[what]
    )
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    report, config = Recorder(), TrainerConfig(home=tmp_path / "home")
    with pytest.raises(BlobCorruptError, match="restore this file") as caught:
        run_training(task, training_job="tenants/acme/trainingJobs/t1", blobs=blobs, config=config, report=report)
    assert caught.value.metadata["resource"] == resource
    assert report.steps == []
