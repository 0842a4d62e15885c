"""The training loop of every method: steps, validation, early stopping, checkpoints, progress, cancellation.

The loop is a pure function of model, rows and settings: every random choice comes from the seed and the step. A run
that is killed and resumed from its last checkpoint therefore reports the same losses, bit for bit, as one that was not
(on the same machine and number of threads). What a method computes is in its recipe: `recipes/`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from luthierd.errors import FailedPreconditionError
from luthierd.trainer.blocks.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    RunState,
    load_optimizer_tensors,
    load_rng_tensors,
    optimizer_tensors,
    rng_tensors,
)
from luthierd.trainer.blocks.encoding import EmptySplitError
from luthierd.trainer.blocks.schedule import batch_of_step, cosine_learning_rate, sorted_batches, step_count
from luthierd.trainer.domain.training import TrainingConfig, TrainingProgress
from luthierd.trainer.recipes.recipe import Example, Recipe, Weights

VALIDATION_BATCH_ROWS = 8


class TrainingCancelled(Exception):
    """`Report.cancelled()` was true; the run stopped within one micro-batch."""


class TrainingDivergedError(FailedPreconditionError):
    """The loss or the gradient is no longer a number."""

    reason = "TRAINING_DIVERGED"

    def __init__(self, step: int, *, loss: float, gradient_norm: float, learning_rate: float) -> None:
        super().__init__(
            f"step {step}: loss {loss}, gradient norm {gradient_norm} at learning rate {learning_rate:.2e}; lower "
            "learning_rate or max_grad_norm, or look for broken rows",
            metadata={
                "step": str(step),
                "loss": str(loss),
                "gradient_norm": str(gradient_norm),
                "learning_rate": str(learning_rate),
            },
        )


class Report(Protocol):
    """Takes the progress of a run, and says when to stop."""

    def progress(self, progress: TrainingProgress) -> None:
        """After every optimizer step."""

    def message(self, text: str) -> None:
        """A message for people: a resume, an early stop."""

    def settle(self) -> None:
        """Returns when all reports are stored. Steps before a checkpoint are not reported again."""

    def cancelled(self) -> bool:
        """Whether to stop now."""


@dataclass(frozen=True)
class Trained:
    """The result of a run. The model has the best weights."""

    weights: Weights
    step: int
    """The step of these weights."""
    validation_loss: float
    """NaN where there is no validation split."""
    label_count: int
    """Of all rows, per epoch."""


def train(  # noqa: C901 - one flat loop, to be read from top to bottom
    model: Any,
    recipe: Recipe,
    rows: Sequence[Example],
    *,
    validation_rows: Sequence[Example],
    checkpoints: CheckpointFolder,
    report: Report,
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Trains `model`, in place, from the last checkpoint if there is one.

    TrainingCancelled within one micro-batch of a cancel; TrainingDivergedError; EmptySplitError.
    """
    if not rows:
        raise EmptySplitError("train")
    config = recipe.config
    weights = recipe.build(model)
    parameters = weights.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    torch.manual_seed(config.seed)
    lengths = [row.token_count for row in rows]
    total_steps = step_count(
        len(rows), batch_size=config.batch_size, epoch_count=config.epoch_count, max_steps=config.max_steps
    )
    run, best = RunState(), weights.state()
    if (checkpoint := checkpoints.latest()) is not None:
        run, best = checkpoint.run, checkpoint.best_weights
        weights.load(checkpoint.weights)
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
        batch = [rows[i] for i in batch_of_step(run.step, lengths, batch_size=config.batch_size, seed=config.seed)]
        label_count = sum(row.label_count for row in batch)
        step_loss = 0.0
        started_s = clock()
        for start in range(0, len(batch), config.micro_batch_size):
            if report.cancelled():
                raise TrainingCancelled
            loss = recipe.loss(model, batch[start : start + config.micro_batch_size]) / label_count
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
        pace.count(sum(row.token_count for row in batch), busy_s=clock() - started_s)

        validation_loss = None
        is_last = run.step == total_steps
        if validation_rows and (is_last or _is_due(run.step, config.validation_interval_steps)):
            validation_loss = mean_loss(model, recipe, validation_rows, report=report)
            run.stale_validations += 1
            if validation_loss < run.best_validation_loss - config.early_stopping_min_delta:
                run.best_validation_loss, run.best_step, run.stale_validations = validation_loss, run.step, 0
                best = weights.state()
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
            checkpoints.save(Checkpoint(run, weights.state(), best, optimizer_tensors(optimizer), rng_tensors()))

    if _is_stale(run, config):
        report.message(
            f"stopped early after step {run.step} of {total_steps}: no better validation loss than "
            f"{run.best_validation_loss:.4f} of step {run.best_step}"
        )
    has_best = run.best_step > 0
    if has_best:
        weights.load(best)
    return Trained(
        weights=weights,
        step=run.best_step if has_best else run.step,
        validation_loss=run.best_validation_loss if has_best else math.nan,
        label_count=sum(row.label_count for row in rows),
    )


@torch.no_grad()
def mean_loss(model: Any, recipe: Recipe, rows: Sequence[Example], *, report: Report) -> float:
    """Loss over all rows, per label. TrainingCancelled between batches."""
    model.eval()
    total = 0.0
    for chosen in sorted_batches([row.token_count for row in rows], batch_size=VALIDATION_BATCH_ROWS):
        if report.cancelled():
            raise TrainingCancelled
        total += float(recipe.loss(model, [rows[index] for index in chosen]))
    return total / sum(row.label_count for row in rows)


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
        """Adds one step."""
        self._tokens += tokens
        self._busy_s += busy_s

    @property
    def tokens_per_second(self) -> float:
        """While training; 0 before the clock has moved."""
        return self._tokens / self._busy_s if self._busy_s > 0 else 0.0

    def remaining_s(self, step: int, total_steps: int) -> float:
        """Steps left at the mean pace so far, validations and checkpoints included."""
        return (self._clock() - self._started_s) / max(1, step - self._first_step) * (total_steps - step)
