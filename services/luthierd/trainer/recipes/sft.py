"""Supervised fine-tuning with LoRA, as one flat loop. Loss on the completion only, nats per token.

The loop is a pure function of model, rows and settings: every random choice comes from the seed and the step. A run
that is killed and resumed from its last checkpoint therefore reports the same losses, bit for bit, as one that was not
(on the same machine and number of threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from luthierd.trainer.blocks.batches import Batch, batch_of_step, collate, sorted_batches
from luthierd.trainer.blocks.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    RunState,
    load_optimizer_tensors,
    load_rng_tensors,
    optimizer_tensors,
    rng_tensors,
)
from luthierd.trainer.blocks.encoding import EmptySplitError, EncodedRow
from luthierd.trainer.blocks.errors import TrainingCancelled, TrainingDivergedError
from luthierd.trainer.blocks.lora import inject_lora, load_lora_state, lora_state, trainable_parameters
from luthierd.trainer.blocks.model import completion_loss
from luthierd.trainer.blocks.schedule import cosine_learning_rate, step_count
from luthierd.trainer.domain import TrainingConfig, TrainingProgress

VALIDATION_BATCH_ROWS = 8


class Report(Protocol):
    """Where a run tells how it goes, and hears that it should stop."""

    def progress(self, progress: TrainingProgress) -> None:
        """After every optimizer step."""

    def message(self, text: str) -> None:
        """Something worth knowing, in words."""

    def settle(self) -> None:
        """Returns when all that was told is kept: steps before a checkpoint are not told again."""

    def cancelled(self) -> bool:
        """Whether to stop now."""


@dataclass(frozen=True)
class Trained:
    """The run's result. `model` carries the best weights."""

    lora: dict[str, torch.Tensor]
    target_modules: tuple[str, ...]
    step: int
    """The step whose weights these are."""
    validation_loss: float
    """NaN where there is no validation split."""
    label_count: int


def train(  # noqa: C901 - one flat loop, to be read from top to bottom
    model: Any,
    rows: Sequence[EncodedRow],
    *,
    validation_rows: Sequence[EncodedRow],
    config: TrainingConfig,
    pad_token_id: int,
    checkpoints: CheckpointFolder,
    report: Report,
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Trains an adapter on `model`, in place, from the last checkpoint if there is one.

    TrainingCancelled within one micro-batch of a cancel; TrainingDivergedError; EmptySplitError.
    """
    if not rows:
        raise EmptySplitError("train")
    layers = inject_lora(model, config)
    parameters = trainable_parameters(layers)
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    torch.manual_seed(config.seed)
    lengths = [len(row.token_ids) for row in rows]
    total_steps = step_count(
        len(rows), batch_size=config.batch_size, epoch_count=config.epoch_count, max_steps=config.max_steps
    )
    run, best_lora = RunState(), lora_state(layers)
    if (checkpoint := checkpoints.latest()) is not None:
        run, best_lora = checkpoint.run, checkpoint.best_lora
        load_lora_state(layers, checkpoint.lora)
        load_optimizer_tensors(optimizer, checkpoint.optimizer)
        load_rng_tensors(checkpoint.rng)
        report.message(f"resumed after step {run.step} of {total_steps}")

    pace = Pace(clock, first_step=run.step)
    while run.step < total_steps and not _is_stale(run, config):
        learning_rate = cosine_learning_rate(
            run.step,
            total_steps=total_steps,
            peak=config.learning_rate,
            warmup_ratio=config.warmup_ratio,
            min_ratio=config.min_learning_rate_ratio,
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate

        model.train()
        chosen = batch_of_step(run.step, lengths, batch_size=config.batch_size, seed=config.seed)
        batches = micro_batches([rows[index] for index in chosen], config.micro_batch_size, pad_token_id=pad_token_id)
        label_count = sum(batch.label_count for batch in batches)
        step_loss = 0.0
        started_s = clock()
        for batch in batches:
            if report.cancelled():
                raise TrainingCancelled
            loss = completion_loss(model, batch) / label_count
            loss.backward()
            step_loss += loss.item()
        gradient_norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm))
        if not (math.isfinite(step_loss) and math.isfinite(gradient_norm)):
            raise TrainingDivergedError(
                run.step + 1, loss=step_loss, gradient_norm=gradient_norm, learning_rate=learning_rate
            )
        optimizer.step()
        optimizer.zero_grad()
        run.step, run.last_loss = run.step + 1, step_loss
        pace.count(sum(batch.token_count for batch in batches), busy_s=clock() - started_s)

        validation_loss = None
        is_last = run.step == total_steps
        if validation_rows and (is_last or _is_due(run.step, config.validation_interval_steps)):
            validation_loss = mean_loss(model, validation_rows, pad_token_id=pad_token_id, report=report)
            run.stale_validations += 1
            if validation_loss < run.best_validation_loss - config.early_stopping_min_delta:
                run.best_validation_loss, run.best_step, run.stale_validations = validation_loss, run.step, 0
                best_lora = lora_state(layers)
        report.progress(
            TrainingProgress(
                step=run.step,
                total_steps=total_steps,
                loss=step_loss,
                learning_rate=learning_rate,
                tokens_per_second=pace.tokens_per_second,
                remaining_s=pace.remaining_s(run.step, total_steps),
                gradient_norm=gradient_norm,
                validation_loss=validation_loss,
            )
        )
        if is_last or _is_due(run.step, config.checkpoint_interval_steps):
            report.settle()
            checkpoints.save(
                Checkpoint(run, lora_state(layers), best_lora, optimizer_tensors(optimizer), rng_tensors())
            )

    if _is_stale(run, config):
        report.message(
            f"stopped early after step {run.step} of {total_steps}: no better validation loss than "
            f"{run.best_validation_loss:.4f} of step {run.best_step}"
        )
    has_best = run.best_step > 0
    if has_best:
        load_lora_state(layers, best_lora)
    return Trained(
        lora=lora_state(layers),
        target_modules=tuple(sorted({path.rpartition(".")[2] for path in layers})),
        step=run.best_step if has_best else run.step,
        validation_loss=run.best_validation_loss if has_best else math.nan,
        label_count=sum(len(row.token_ids) - row.completion_start for row in rows),
    )


def micro_batches(rows: Sequence[EncodedRow], size: int, *, pad_token_id: int) -> list[Batch]:
    """The rows of one optimizer step in pieces of `size`."""
    return [collate(rows[start : start + size], pad_token_id=pad_token_id) for start in range(0, len(rows), size)]


@torch.no_grad()
def mean_loss(model: Any, rows: Sequence[EncodedRow], *, pad_token_id: int, report: Report) -> float:
    """Loss over all rows, nats per completion token. TrainingCancelled between batches."""
    model.eval()
    total, label_count = 0.0, 0
    for chosen in sorted_batches([len(row.token_ids) for row in rows], batch_size=VALIDATION_BATCH_ROWS):
        if report.cancelled():
            raise TrainingCancelled
        batch = collate([rows[index] for index in chosen], pad_token_id=pad_token_id)
        total += float(completion_loss(model, batch))
        label_count += batch.label_count
    return total / label_count


def _is_due(step: int, interval_steps: int) -> bool:
    return interval_steps > 0 and step % interval_steps == 0


def _is_stale(run: RunState, config: TrainingConfig) -> bool:
    return config.early_stopping_patience > 0 and run.stale_validations >= config.early_stopping_patience


class Pace:
    """Speed and time left, from what this process has done so far."""

    def __init__(self, clock: Callable[[], float], *, first_step: int) -> None:
        self._clock, self._first_step, self._started_s = clock, first_step, clock()
        self._tokens, self._busy_s = 0, 0.0

    def count(self, tokens: int, *, busy_s: float) -> None:
        """One step more."""
        self._tokens += tokens
        self._busy_s += busy_s

    @property
    def tokens_per_second(self) -> float:
        """While training; 0 before the clock has moved."""
        return self._tokens / self._busy_s if self._busy_s > 0 else 0.0

    def remaining_s(self, step: int, total_steps: int) -> float:
        """Steps left at the mean pace so far, validations and checkpoints included."""
        return (self._clock() - self._started_s) / max(1, step - self._first_step) * (total_steps - step)
