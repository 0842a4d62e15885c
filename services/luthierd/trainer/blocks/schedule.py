"""What each step does: which rows it takes and how fast it learns. Only the seed and the step decide."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

POOL_BATCHES = 16
"""Batches are cut from pools of so many batches sorted by length: padding falls from a third to 1 % on docstrings,
while the composition of batches stays random from epoch to epoch."""


def step_count(row_count: int, *, batch_size: int, epoch_count: float, max_steps: int) -> int:
    """Optimizer steps of a run. The last batch of an epoch may be smaller; `max_steps` 0 means no bound."""
    steps = max(1, round(math.ceil(row_count / batch_size) * epoch_count))
    return min(steps, max_steps) if max_steps else steps


def cosine_learning_rate(step: int, *, total_steps: int, peak: float, warmup_ratio: float, min_ratio: float) -> float:
    """Learning rate of `step` (0-based): a linear rise to `peak`, then a cosine down to `peak * min_ratio`.

    The first step of a warm-up is above 0 (a step with rate 0 is wasted), the last step of the run is at the minimum.
    """
    warmup_steps = round(total_steps * warmup_ratio)
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    share = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    return peak * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def epoch_batches(lengths: Sequence[int], *, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of each batch of an epoch: every row once, rows of similar length together, batches in random order.

    A pure function of its arguments, so that a resumed run sees what the interrupted one would have seen.
    """
    rng = random.Random(f"{seed}/{epoch}")  # noqa: S311 - a shuffle, not a secret
    order = list(range(len(lengths)))
    rng.shuffle(order)
    pool_size = batch_size * POOL_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(order), pool_size):
        pool = sorted(order[start : start + pool_size], key=lambda row: lengths[row])
        batches += [pool[first : first + batch_size] for first in range(0, len(pool), batch_size)]
    rng.shuffle(batches)
    return batches


def batch_of_step(step: int, lengths: Sequence[int], *, batch_size: int, seed: int) -> list[int]:
    """Row numbers of optimizer step `step`, counted from 0 over all epochs."""
    batches_per_epoch = -(-len(lengths) // batch_size)
    epoch, index = divmod(step, batches_per_epoch)
    return epoch_batches(lengths, batch_size=batch_size, seed=seed, epoch=epoch)[index]


def sorted_batches(lengths: Sequence[int], *, batch_size: int) -> list[list[int]]:
    """Row numbers by length, for validation, where the order does not matter."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
