"""How many steps, and the learning rate of each."""

from __future__ import annotations

import math


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
