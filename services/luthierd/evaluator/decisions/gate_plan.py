"""Power analysis of a gate: what a policy can prove on the available rows, before anything is trained.

A condition is provable if its minimum detectable effect at 80 % power is within the `expected` one. The standard error
comes from a pilot evaluation of the same task, or from stated assumptions about rows and groups.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy import special

from luthierd.evaluator.dataset.rows import slice_names
from luthierd.evaluator.decisions.gate import ConditionOutcome, GateOutcome
from luthierd.evaluator.decisions.gate_policy import ONE_SIDED_ALPHA, GateCondition, GatePolicy, Tier
from luthierd.evaluator.domain.evaluation import Results
from luthierd.evaluator.domain.rows import Row
from luthierd.evaluator.scorers.registry import spec_of
from luthierd.statistics.clustered import MIN_GROUPS, POWER

DEFAULT_EXPECTED_GAIN = 0.1
"""A gain that a user notices; 200 rows detect 6 to 11 points of paired accuracy."""
# Standard deviation of a row's paired difference: 0/1 scores that differ on a quarter of the rows; graded scores as
# observed on docstring summaries (ROUGE-L, .2 to .3).
ASSUMED_BINARY_DEVIATION = 0.5
ASSUMED_GRADED_DEVIATION = 0.3
# Correlation of rows within a group: rows of one module resemble each other a little.
ASSUMED_CORRELATION = 0.1
ASSUMED = "assumed"
MAX_NEEDED_GROUPS = 10_000_000
"""No dataset is larger."""


@dataclass(frozen=True)
class Variance:
    """The standard error of a condition's estimate on these rows, and where it comes from. `deviation` and
    `correlation` are None where a pilot gave the error as a whole.
    """

    error: float
    source: str
    deviation: float | None = None
    correlation: float | None = None


@dataclass(frozen=True, kw_only=True)
class ConditionPlan:
    """What one condition can prove. `condition` has its `expected`; needed counts are 0 if no number suffices."""

    condition: GateCondition
    outcome: ConditionOutcome
    minimum_detectable_effect: float | None
    expected_difference: float
    needed_row_count: int
    needed_group_count: int
    row_count: int
    group_count: int
    variance: Variance
    explanation: str = ""


@dataclass(frozen=True)
class GatePlan:
    """GO: every critical condition can be proved; NO_GO: one cannot; INCONCLUSIVE: there is none."""

    outcome: GateOutcome
    conditions: tuple[ConditionPlan, ...]
    row_count: int
    group_count: int


@dataclass(frozen=True)
class Pilot:
    """A finished evaluation of the same task."""

    name: str
    results: Results


def plan_gate(policy: GatePolicy, rows: Sequence[Row], *, pilot: Pilot | None = None) -> GatePlan:
    """What `policy` can prove on `rows`. Limits are not planned: they depend on the arms, not on the rows."""
    plans = tuple(_plan_condition(condition, policy, rows, pilot) for condition in policy.conditions)
    critical = [one.outcome for one in plans if one.condition.tier is Tier.CRITICAL]
    outcome = GateOutcome.GO if critical else GateOutcome.INCONCLUSIVE
    if ConditionOutcome.INSUFFICIENT_EVIDENCE in critical:
        outcome = GateOutcome.NO_GO
    return GatePlan(outcome, plans, len(rows), len({row.group for row in rows}))


def detectable(error: float, groups: int, *, alpha: float = ONE_SIDED_ALPHA) -> float | None:
    """The minimum detectable distance from a bound at 80 % power, one-sided `alpha`; None below MIN_GROUPS."""
    if groups < MIN_GROUPS:
        return None
    df = groups - 1
    return float((special.stdtrit(df, 1 - alpha) + special.stdtrit(df, POWER)) * error)


def _plan_condition(
    condition: GateCondition, policy: GatePolicy, rows: Sequence[Row], pilot: Pilot | None
) -> ConditionPlan:
    condition = replace(condition, expected=_expected(condition))
    chosen = [row for row in rows if not condition.slice or condition.slice in slice_names(row)]
    sizes = Counter(row.group for row in chosen)
    groups, alpha = len(sizes), ONE_SIDED_ALPHA / policy.candidate_count
    distance = (condition.expected or 0.0) - condition.at_least
    variance = _variance(condition, list(sizes.values()) or [1], pilot)
    least = detectable(variance.error, groups, alpha=alpha)
    provable = least is not None and least <= distance
    needed = _needed_groups(variance.error * math.sqrt(max(1, groups)), distance, alpha)
    per_group = len(chosen) / groups if groups else 1.0
    plan = ConditionPlan(
        condition=condition,
        outcome=ConditionOutcome.PASS if provable else ConditionOutcome.INSUFFICIENT_EVIDENCE,
        minimum_detectable_effect=least,
        expected_difference=distance,
        needed_row_count=math.ceil(needed * per_group),
        needed_group_count=needed,
        row_count=len(chosen),
        group_count=groups,
        variance=variance,
    )
    return replace(plan, explanation=_explain(plan))


def _expected(condition: GateCondition) -> float:
    if condition.expected is not None:
        return condition.expected
    if condition.reference is not None and condition.at_least < 0:
        return 0.0  # non-inferiority is tested against equality
    gained = condition.at_least + DEFAULT_EXPECTED_GAIN
    return gained if condition.reference is not None else min(1.0, gained)


def _variance(condition: GateCondition, sizes: Sequence[int], pilot: Pilot | None) -> Variance:
    if pilot is not None:
        results = pilot.results.slices.get(condition.slice) if condition.slice else pilot.results.overall
        found = condition.result_in(results) if results else None
        interval = found.interval if found else None
        if interval is not None and interval.high > interval.low:
            t = float(special.stdtrit(interval.group_count - 1, 1 - ONE_SIDED_ALPHA))
            error = (interval.high - interval.low) / 2 / t
            return Variance(error * math.sqrt(interval.group_count / len(sizes)), pilot.name)
    deviation = ASSUMED_BINARY_DEVIATION if spec_of(condition.metric).is_proportion else ASSUMED_GRADED_DEVIATION
    if condition.reference is None and spec_of(condition.metric).is_proportion:
        share = min(0.99, max(0.01, condition.expected or 0.0))
        deviation = math.sqrt(share * (1 - share))
    rows = sum(sizes)
    inflation = 1 + (sum(size * size for size in sizes) / rows - 1) * ASSUMED_CORRELATION
    return Variance(deviation * math.sqrt(inflation / rows), ASSUMED, deviation, ASSUMED_CORRELATION)


def _needed_groups(deviation: float, distance: float, alpha: float) -> int:
    """The smallest number of groups whose minimum detectable effect is within `distance`; 0 if there is none.

    deviation: standard error times the root of the number of groups.
    """

    def suffices(groups: int) -> bool:
        least = detectable(deviation / math.sqrt(groups), groups, alpha=alpha)
        return least is not None and least <= distance

    if distance <= 0:
        return 0
    high = MIN_GROUPS
    while not suffices(high):
        high *= 2
        if high > MAX_NEEDED_GROUPS:
            return 0
    low = max(MIN_GROUPS - 1, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _explain(plan: ConditionPlan) -> str:
    condition = plan.condition
    found = f"{condition.claim}: {plan.row_count} rows in {plan.group_count} groups"
    if plan.minimum_detectable_effect is None:
        found += f" prove nothing, fewer than {MIN_GROUPS} groups never do"
    else:
        found += f" prove {condition.at_least + plan.minimum_detectable_effect:.3f} or more"
    if plan.outcome is ConditionOutcome.PASS:
        return f"{found}; {condition.expected:.3f} is expected."
    if not plan.needed_group_count:
        return f"{found}; no number of rows proves the expected {condition.expected:.3f}."
    needed = f"{plan.needed_row_count} rows in {plan.needed_group_count} groups like these"
    return f"{found}; the expected {condition.expected:.3f} needs {needed}."
