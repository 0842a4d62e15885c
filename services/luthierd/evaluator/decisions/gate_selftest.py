"""A/A test of a gate on an evaluation's own rows: how often two arms that are the same would be told apart.

In each experiment a coin for each group decides which of the two arms is called the arm under test. That makes both
equal by construction, and leaves the rows, the groups and the spread of the scores as they are. No answer is asked
again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthierd.evaluator.decisions.gate import ALPHA, ConditionOutcome
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.statistics import clustered, proportions
from luthierd.statistics.compare import PairedRows

DEFAULT_EXPERIMENTS = 500
EXPERIMENTS = (100, 2000)
# Enough for a 95 % quantile that is used, not shown.
N_RESAMPLES = 1000


@dataclass(frozen=True)
class SelfTestResult:
    """How often the identical arm passed a gate for superiority; the interval is Clopper and Pearson's."""

    metric: Metric
    arm: Arm
    reference: Arm
    false_go_rate: float
    low: float
    high: float
    group_count: int


@dataclass(frozen=True)
class SelfTest:
    """PASS: no metric is told apart more often than `alpha`; BREACH: one is; INSUFFICIENT_EVIDENCE: nothing to test."""

    outcome: ConditionOutcome
    results: tuple[SelfTestResult, ...]
    experiment_count: int
    alpha: float


def self_test(rows: Sequence[Mapping[str, Any]], *, experiments: int = DEFAULT_EXPERIMENTS, seed: int = 0) -> SelfTest:
    """Tests every metric that the rows have a score in, on the two most different arms of it. Holds the CPU for some
    seconds.

    rows: as `rows.write_rows` wrote them.
    """
    results = []
    for metric in Metric:
        pair = _pair(rows, metric)
        if pair is not None:
            results.append(_test(rows, metric, *pair, experiments=experiments, seed=seed))
    outcome = ConditionOutcome.PASS
    if not any(found.group_count >= clustered.MIN_GROUPS for found in results):
        outcome = ConditionOutcome.INSUFFICIENT_EVIDENCE
    elif any(found.low > ALPHA for found in results):
        outcome = ConditionOutcome.BREACH
    return SelfTest(outcome, tuple(results), experiments, ALPHA)


def _test(
    rows: Sequence[Mapping[str, Any]], metric: Metric, arm: Arm, reference: Arm, *, experiments: int, seed: int
) -> SelfTestResult:
    groups = [row["group"] for row in rows]
    paired = PairedRows(groups, seed, N_RESAMPLES)
    first, second = (np.array(_scores(rows, metric, one)) for one in (arm, reference))
    names, of_row = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(experiments):
        swapped = (rng.random(len(names)) < 0.5)[of_row]
        own, other = np.where(swapped, second, first), np.where(swapped, first, second)
        found = paired.row_interval(own.tolist(), other.tolist(), is_proportion=metric.is_proportion)
        hits += found is not None and found.low > 0
    low, high = proportions.exact_bounds(hits, experiments)
    return SelfTestResult(metric, arm, reference, hits / experiments, low, high, len(names))


def _pair(rows: Sequence[Mapping[str, Any]], metric: Metric) -> tuple[Arm, Arm] | None:
    """The arms of the highest and the lowest mean; None if fewer than two arms have scores."""
    arms = dict.fromkeys(answer["arm"] for row in rows for answer in row["answers"] if metric.value in answer["scores"])
    means = sorted((sum(_scores(rows, metric, Arm(arm))), arm) for arm in arms)
    return (Arm(means[-1][1]), Arm(means[0][1])) if len(means) > 1 else None


def _scores(rows: Sequence[Mapping[str, Any]], metric: Metric, arm: Arm) -> list[float]:
    """One a row; 0 where there is none."""
    return [
        next((answer["scores"].get(metric.value, 0.0) for answer in row["answers"] if answer["arm"] == arm.value), 0.0)
        for row in rows
    ]
