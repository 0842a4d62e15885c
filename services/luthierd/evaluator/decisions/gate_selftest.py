"""A/A test of a gate on an evaluation's own rows: how often it would tell two identical arms apart.

Each experiment swaps the two arms in a random half of the groups. That makes both equal by construction, and leaves the
rows, the groups and the spread of the scores as they are. No model is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthierd.evaluator.dataset.rows import scores_by_arm, scores_on
from luthierd.evaluator.decisions.gate import ConditionOutcome
from luthierd.evaluator.decisions.gate_policy import ONE_SIDED_ALPHA
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.scorers.registry import known_metrics, spec_of
from luthierd.statistics import clustered, proportions
from luthierd.statistics.compare import PairedRows, filled
from luthierd.statistics.estimates import Interval

DEFAULT_EXPERIMENTS = 500
EXPERIMENTS = (100, 2000)
N_RESAMPLES = 1000
"""Enough for an interval that is not shown."""


@dataclass(frozen=True, kw_only=True)
class SelfTestResult:
    """How often the identical arm passed a gate for superiority."""

    metric: Metric
    arm: Arm
    reference: Arm
    false_go_rate: float
    interval: Interval
    group_count: int


@dataclass(frozen=True)
class SelfTest:
    """PASS: no metric told the arms apart more often than `alpha`; INSUFFICIENT_EVIDENCE: nothing to test."""

    outcome: ConditionOutcome
    results: tuple[SelfTestResult, ...]
    experiment_count: int
    alpha: float


def self_test(rows: Sequence[Mapping[str, Any]], *, experiments: int = DEFAULT_EXPERIMENTS, seed: int = 0) -> SelfTest:
    """Tests every metric of `rows` (`rows.write_rows`) on its two most different arms. CPU-bound, some seconds."""
    by_arm = scores_by_arm(rows)
    results = []
    for metric in known_metrics():
        scores = {arm: filled(scores_on(rows, found[metric])) for arm, found in by_arm.items() if metric in found}
        if len(scores) > 1:
            lowest, *_, highest = sorted(scores, key=lambda arm: (sum(scores[arm]), arm))
            pair = {highest: scores[highest], lowest: scores[lowest]}
            results.append(_test(metric, pair, [row["group"] for row in rows], experiments=experiments, seed=seed))
    outcome = ConditionOutcome.PASS
    if not any(found.group_count >= clustered.MIN_GROUPS for found in results):
        outcome = ConditionOutcome.INSUFFICIENT_EVIDENCE
    elif any(found.interval.low > ONE_SIDED_ALPHA for found in results):
        outcome = ConditionOutcome.BREACH
    return SelfTest(outcome, tuple(results), experiments, ONE_SIDED_ALPHA)


def _test(
    metric: Metric, scores: Mapping[Arm, Sequence[float]], groups: Sequence[str], *, experiments: int, seed: int
) -> SelfTestResult:
    """`scores`: of the two arms. Failed rows count 0 for either, so that swapping keeps the arms equal."""
    paired = PairedRows(groups, seed, N_RESAMPLES)
    arm, reference = scores
    first, second = map(np.array, scores.values())
    names, of_row = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(experiments):
        swapped = (rng.random(len(names)) < 0.5)[of_row]
        own, other = np.where(swapped, second, first), np.where(swapped, first, second)
        found = paired.row_interval(own.tolist(), other.tolist(), is_proportion=spec_of(metric).is_proportion)
        hits += found is not None and found.low > 0
    low, high = proportions.exact_bounds(hits, experiments)
    return SelfTestResult(
        metric=metric,
        arm=arm,
        reference=reference,
        false_go_rate=hits / experiments,
        interval=Interval(low, high, "Clopper-Pearson", experiments),
        group_count=len(names),
    )
