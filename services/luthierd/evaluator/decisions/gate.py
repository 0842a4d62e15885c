"""The gate: conditions on intervals and limits on what an arm takes, and what an evaluation says to each of them.

PASS needs the whole interval above the bound, BREACH the whole interval below it; anything else is
INSUFFICIENT_EVIDENCE, which is not a kind of PASS. Rows without a score cannot turn a verdict: PASS must hold with each
of them at its worst, BREACH with each at its best.

All critical conditions must hold at once, so testing several needs no correction (intersection-union test: each at
level .05, the gate as a whole at most .05). One supporting condition of several is enough to stop a GO: those are
corrected by Holm. A candidate that was picked from several is judged at level .05 / `candidate_count`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import TaskSpec
from luthierd.evaluator.domain.scores import ArmCost, MetricResults
from luthierd.statistics import significance
from luthierd.statistics.clustered import CONFIDENCE
from luthierd.statistics.estimates import Bounds, Interval

DEFAULT_MIN_COVERAGE = 0.95
# One side of the 95 % interval.
ALPHA = (1 - CONFIDENCE) / 2


class Tier(enum.StrEnum):
    """Weight of a condition: a critical one must be proved, a supporting one must not be disproved, an advisory one is
    only shown.
    """

    CRITICAL = "critical"
    SUPPORTING = "supporting"
    ADVISORY = "advisory"


class ConditionOutcome(enum.StrEnum):
    PASS = "pass"  # noqa: S105
    BREACH = "breach"
    INSUFFICIENT_EVIDENCE = "insufficient_evidence"


class GateOutcome(enum.StrEnum):
    GO = "go"
    NO_GO = "no_go"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class GateCondition:
    """`arm` against `reference` (None: the arm's own mean) must lie above `at_least`. 0 asks for superiority, below 0
    is a non-inferiority margin. `slice` empty: all rows. `expected` is for planning (`plans`), None its default.
    """

    metric: Metric
    arm: Arm = Arm.ADAPTER
    reference: Arm | None = None
    at_least: float = 0.0
    tier: Tier = Tier.CRITICAL
    slice: str = ""
    expected: float | None = None


class Quantity(enum.StrEnum):
    """What a limit limits; values are fields of `ArmCost`, milliseconds or currency for 1,000 answers."""

    TTFT_MS_P50 = "ttft_ms_p50"
    LATENCY_MS_P50 = "latency_ms_p50"
    LATENCY_MS_P95 = "latency_ms_p95"
    COST_PER_1000 = "cost_per_1000_answers"


@dataclass(frozen=True)
class GateLimit:
    """`quantity` of `arm` (with `reference`: its ratio to that of `reference`) must not exceed `at_most`."""

    quantity: Quantity
    at_most: float
    arm: Arm = Arm.ADAPTER
    reference: Arm | None = None
    tier: Tier = Tier.CRITICAL


@dataclass(frozen=True)
class GatePolicy:
    """Conditions, limits, and the coverage below which no figure counts as evidence. `name` is empty for a policy given
    with a request. `candidate_count`: how many candidates the arm under test was picked from on these rows.
    """

    conditions: tuple[GateCondition, ...]
    min_coverage: float = DEFAULT_MIN_COVERAGE
    name: str = ""
    limits: tuple[GateLimit, ...] = ()
    candidate_count: int = 1

    @property
    def confidence(self) -> float:
        """The level of the intervals that decide."""
        return 1 - (1 - CONFIDENCE) / self.candidate_count


@dataclass(frozen=True)
class ConditionDecision:
    """One condition, judged. `interval`, at `confidence`, and the p-values (one-sided, of the claim) are None when the
    evaluation has no such figure or too few groups.
    """

    condition: GateCondition
    outcome: ConditionOutcome
    estimate: float
    interval: Interval | None
    explanation: str
    p_value: float | None = None
    adjusted_p_value: float | None = None
    coverage: float = 0.0
    confidence: float = CONFIDENCE
    bounds: Bounds | None = None
    row_count: int = 0
    group_count: int = 0
    minimum_detectable_effect: float | None = None


@dataclass(frozen=True)
class LimitDecision:
    """One limit, judged. `value` is None if the evaluation does not tell it; a price has no interval."""

    limit: GateLimit
    outcome: ConditionOutcome
    value: float | None
    interval: Interval | None
    explanation: str


@dataclass(frozen=True)
class GateDecision:
    """All conditions and limits in the policy's order, and the outcome. `warnings`: what weakens it without changing
    it.
    """

    outcome: GateOutcome
    conditions: tuple[ConditionDecision, ...]
    warnings: tuple[str, ...] = ()
    limits: tuple[LimitDecision, ...] = ()


def judge(
    policy: GatePolicy,
    figures: MetricResults,
    *,
    slices: Mapping[str, MetricResults] | None = None,
    costs: Sequence[ArmCost] = (),
) -> GateDecision:
    """What the policy says of an evaluation's figures. A pure function: the same input gives the same decision."""
    judged = [_judge_condition(condition, policy, figures, slices or {}) for condition in policy.conditions]
    conditions = tuple(_corrected(judged, policy))
    limits = tuple(judge_limit(limit, costs) for limit in policy.limits)
    weighed = [(one.condition.tier, one.outcome) for one in conditions]
    weighed += [(limited.limit.tier, limited.outcome) for limited in limits]
    return GateDecision(_overall(weighed), conditions, limits=limits)


def _overall(weighed: Sequence[tuple[Tier, ConditionOutcome]]) -> GateOutcome:
    critical = [outcome for tier, outcome in weighed if tier is Tier.CRITICAL]
    if ConditionOutcome.BREACH in [outcome for tier, outcome in weighed if tier is not Tier.ADVISORY]:
        return GateOutcome.NO_GO
    if ConditionOutcome.INSUFFICIENT_EVIDENCE in critical or not critical:
        return GateOutcome.INCONCLUSIVE
    return GateOutcome.GO


def _judge_condition(
    condition: GateCondition, policy: GatePolicy, figures: MetricResults, slices: Mapping[str, MetricResults]
) -> ConditionDecision:
    """One condition by itself; its outcome is set by `_corrected` where there is evidence."""
    claim = _claim(condition)
    chosen = slices.get(condition.slice) if condition.slice else figures
    undecided = ConditionDecision(condition, ConditionOutcome.INSUFFICIENT_EVIDENCE, 0.0, None, "")
    if chosen is None:
        known = ", ".join(slices) or "none"
        return replace(undecided, explanation=f"{claim}: the evaluation has no such slice; it has {known}.")
    found = _evidence(condition, chosen, undecided)
    if found is None:
        return replace(undecided, explanation=f"{claim}: the evaluation has no such figure.")
    found = replace(found, confidence=policy.confidence)
    if found.coverage < policy.min_coverage:
        why = f"only {found.coverage:.0%} of the rows have a score, {policy.min_coverage:.0%} are needed"
        return replace(found, interval=None, explanation=f"{claim}: {why}.")
    if found.interval is None:
        return replace(found, explanation=f"{claim}: {found.group_count} groups of rows are too few for an interval.")
    worst = (found.bounds.worst if found.bounds else found.estimate) - found.estimate
    p_value = significance.p_above(found.estimate, found.interval, condition.at_least - worst)
    return replace(found, p_value=p_value)


def _evidence(condition: GateCondition, figures: MetricResults, empty: ConditionDecision) -> ConditionDecision | None:
    own = figures.metric(condition.arm, condition.metric)
    if own is None:
        return None
    if condition.reference is None:
        return replace(
            empty,
            estimate=own.value,
            interval=own.interval,
            coverage=own.coverage,
            bounds=own.bounds,
            row_count=own.row_count,
            group_count=own.interval.group_count if own.interval else figures.group_count,
        )
    other = figures.metric(condition.reference, condition.metric)
    found = figures.comparison(condition.metric, condition.arm, condition.reference)
    if other is None or found is None:
        return None
    return replace(
        empty,
        estimate=found.difference,
        interval=found.interval,
        coverage=min(own.coverage, other.coverage),
        bounds=found.bounds,
        row_count=found.row_count,
        group_count=found.group_count,
        minimum_detectable_effect=found.minimum_detectable_effect,
    )


def _corrected(judged: Sequence[ConditionDecision], policy: GatePolicy) -> list[ConditionDecision]:
    """Outcomes from p-values, corrected for the candidates and, among supporting conditions, for each other."""
    supporting = [one.condition.tier is Tier.SUPPORTING for one in judged]
    claims, counterclaims = ([one.p_value for one in judged], [_p_breach(one) for one in judged])
    decided = []
    for p_values in (claims, counterclaims):
        together = significance.holm(
            [p if mate else None for p, mate in zip(p_values, supporting, strict=True)],
            picked_from=policy.candidate_count,
        )
        alone = [None if p is None else min(1.0, p * policy.candidate_count) for p in p_values]
        decided.append([b if mate else a for a, b, mate in zip(alone, together, supporting, strict=True)])
    return [_decided(one, claim, counter) for one, claim, counter in zip(judged, *decided, strict=True)]


def _p_breach(found: ConditionDecision) -> float | None:
    """The one-sided p-value of the opposite claim, with every missing score at its best."""
    if found.interval is None or found.p_value is None:
        return None
    best = (found.bounds.best if found.bounds else found.estimate) - found.estimate
    return 1 - significance.p_above(found.estimate, found.interval, found.condition.at_least - best)


def _decided(found: ConditionDecision, p_claim: float | None, p_counter: float | None) -> ConditionDecision:
    if found.interval is None or p_claim is None or p_counter is None:
        return found
    outcome = ConditionOutcome.INSUFFICIENT_EVIDENCE
    if p_claim < ALPHA:
        outcome = ConditionOutcome.PASS
    elif p_counter < ALPHA:
        outcome = ConditionOutcome.BREACH
    shown = significance.at_confidence(found.estimate, found.interval, found.confidence)
    found = replace(found, outcome=outcome, interval=shown, adjusted_p_value=p_claim)
    return replace(found, explanation=_explain(found, shown))


def _claim(condition: GateCondition) -> str:
    subject = f"{condition.metric} of {condition.arm}"
    if condition.reference is not None:
        subject += f" minus {condition.reference}"
    if condition.slice:
        subject += f" on {condition.slice}"
    return f"{subject} above {condition.at_least:g}"


def _explain(found: ConditionDecision, interval: Interval) -> str:
    claim = _claim(found.condition)
    text = f"{found.estimate:+.3f}, {100 * found.confidence:.4g} % interval [{interval.low:+.3f}, {interval.high:+.3f}]"
    if found.bounds and found.bounds.best - found.bounds.worst > 0:
        text += f", rows without a score could make it {found.bounds.worst:+.3f} to {found.bounds.best:+.3f}"
    if found.outcome is ConditionOutcome.PASS:
        return f"{claim}: proved ({text})."
    if found.outcome is ConditionOutcome.BREACH:
        return f"{claim}: disproved ({text})."
    least = found.minimum_detectable_effect
    hint = f"; rows like these prove a difference from about {least:.3f} on" if least else ""
    return f"{claim}: not proved and not disproved ({text}){hint}."


def judge_limit(limit: GateLimit, costs: Sequence[ArmCost]) -> LimitDecision:
    """One limit, by the interval of what it limits."""
    undecided = LimitDecision(limit, ConditionOutcome.INSUFFICIENT_EVIDENCE, None, None, "")
    versus = f" over {limit.reference}" if limit.reference else ""
    claim = f"{limit.quantity} of {limit.arm}{versus} at most {limit.at_most:g}"
    own = _measured(limit.arm, limit.quantity, costs)
    other = _measured(limit.reference, limit.quantity, costs) if limit.reference else (1.0, None)
    if own is None or other is None or other[0] <= 0:
        return replace(undecided, explanation=f"{claim}: the evaluation has no such figure.")
    value = own[0] / other[0]
    low, high = value, value
    interval = None
    if limit.quantity is not Quantity.COST_PER_1000:
        if own[1] is None or (limit.reference and other[1] is None):
            return replace(undecided, value=value, explanation=f"{claim}: too few answers for an interval.")
        least, most = (other[1].low, other[1].high) if other[1] else (1.0, 1.0)
        low, high = own[1].low / most, own[1].high / least if least > 0 else float("inf")
        interval = Interval(low, high, own[1].method, own[1].group_count)
    outcome = ConditionOutcome.INSUFFICIENT_EVIDENCE
    if high <= limit.at_most:
        outcome = ConditionOutcome.PASS
    elif low > limit.at_most:
        outcome = ConditionOutcome.BREACH
    words = {ConditionOutcome.PASS: "kept", ConditionOutcome.BREACH: "exceeded"}
    found = f"{value:.4g}" + (f", 95 % interval [{low:.4g}, {high:.4g}]" if interval else ", a total")
    return LimitDecision(limit, outcome, value, interval, f"{claim}: {words.get(outcome, 'not decided')} ({found}).")


def _measured(arm: Arm, quantity: Quantity, costs: Sequence[ArmCost]) -> tuple[float, Interval | None] | None:
    """The value and its interval; None if the arm was not run or never answered."""
    found = next((cost for cost in costs if cost.arm is arm and cost.answered_count), None)
    if found is None:
        return None
    return getattr(found, quantity.value), getattr(found, f"{quantity.value}_interval", None)


def default_policy(figures: MetricResults, task: TaskSpec) -> GatePolicy:
    """The rules of the report's verdict: the adapter's primary metric beats base and prompting, its JSON
    beats base's.
    """
    primary = task.primary_metric
    wanted = [
        GateCondition(primary, reference=Arm.BASE),
        GateCondition(primary, reference=Arm.PROMPTED),
        GateCondition(Metric.JSON_VALID, reference=Arm.BASE),
    ]
    measured = {(found.metric, found.reference) for found in figures.comparisons if found.arm is Arm.ADAPTER}
    return GatePolicy(tuple(one for one in wanted if (one.metric, one.reference) in measured))
