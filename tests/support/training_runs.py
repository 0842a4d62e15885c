"""Runs of the training loop on a tiny model, in the test's process."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import torch
from luthierd.trainer.blocks.checkpoint import CheckpointFolder
from luthierd.trainer.blocks.encoding import EncodedRow, encode_rows
from luthierd.trainer.blocks.model import load_model, load_tokenizer
from luthierd.trainer.domain.training import TrainingConfig, TrainingProgress
from luthierd.trainer.loop import Trained, train
from luthierd.trainer.recipes.recipe import make_recipe

from support.toy_rows import toy_rows

CONFIG = TrainingConfig(
    rank=4,
    alpha=8.0,
    batch_size=4,
    micro_batch_size=2,
    epoch_count=3.0,
    learning_rate=0.01,
    validation_interval_steps=4,
    checkpoint_interval_steps=3,
    early_stopping_patience=0,
)


class Recorder:
    """Keeps what a run reports, and cancels or dies after a number of steps."""

    def __init__(self, *, cancel_after: int | None = None, die_after: int | None = None) -> None:
        self.steps: list[TrainingProgress] = []
        self.messages: list[str] = []
        self._cancel_after, self._die_after = cancel_after, die_after

    def progress(self, progress: TrainingProgress) -> None:
        if self._die_after is not None and len(self.steps) == self._die_after:
            raise KeyboardInterrupt
        self.steps.append(progress)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def settle(self) -> None:
        """Nothing to wait for."""

    def cancelled(self) -> bool:
        return self._cancel_after is not None and len(self.steps) >= self._cancel_after

    @property
    def losses(self) -> list[float]:
        return [progress.loss for progress in self.steps]


def encoded(folder: pathlib.Path, count: int, split: str = "train") -> list[EncodedRow]:
    return encode_rows(toy_rows(count, split=split), load_tokenizer(folder), limit_tokens=512)


def run(
    folder: pathlib.Path,
    checkpoints: pathlib.Path,
    report: Recorder,
    *,
    config: TrainingConfig = CONFIG,
    rows: list[EncodedRow] | None = None,
    fingerprint: str = "same",
) -> tuple[Trained, Any]:
    model = load_model(folder, dtype=torch.float32, longest_row_tokens=100)
    trained = train(
        model,
        make_recipe(config),
        encoded(folder, 18) if rows is None else rows,
        validation_rows=encoded(folder, 6, "validation"),
        checkpoints=CheckpointFolder(checkpoints, fingerprint=fingerprint),
        report=report,
        clock=itertools.count(0.0, 0.5).__next__,
    )
    return trained, model
