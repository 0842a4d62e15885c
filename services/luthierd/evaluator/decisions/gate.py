"""The gate: whether an evaluation's results let an arm go live by a policy. GO, NO-GO or INCONCLUSIVE.

A condition passes if its whole interval lies above the bound, and is breached if the whole interval lies below it;
anything else is insufficient evidence, which is not a kind of pass. Rows without a score cannot turn a decision: a pass
must hold with each of them at its worst, a breach with each at its best.

All critical conditions must hold at once, so testing several needs no correction (intersection-union test: each at
level .05, the gate as a whole at most .05). One supporting condition of several is enough to stop a GO: those are
corrected by Holm. A candidate that was picked from several is judged at level .05 / `candidate_count`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from luthierd.evaluator.decisions.gate_policy import (
    ONE_SIDED_ALPHA,
    GateCondition,
    GateLimit,
    GatePolicy,
    Quantity,
    Tier,
)
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.scores import ArmCost, Comparison, MetricResults
from luthierd.statistics import significance
from luthierd.statistics.clustered import CONFIDENCE
from luthierd.statistics.estimates import Bounds, Interval


class GateOutcome(enum.StrEnum):
    GO = "go"
    NO_GO = "no_go"
    INCONCLUSIVE = "inconclusive"


class ConditionOutcome(enum.StrEnum):
    PASS = "pass"  # noqa: S105
    BREACH = "breach"
    INSUFFICIENT_EVIDENCE = "insufficient_evidence"


@dataclass(frozen=True, kw_only=True)
class ConditionDecision:
    """One condition, judged. `interval`, at `confidence`, and the p-values (one-sided, of the claim) are None where the
    evaluation has no such result or too few groups.
    """

    condition: GateCondition
    outcome: ConditionOutcome = ConditionOutcome.INSUFFICIENT_EVIDENCE
    estimate: float = 0.0
    interval: Interval | None = None
    explanation: str = ""
    p_value: float | None = None
    adjusted_p_value: float | None = None
    coverage: float = 0.0
    confidence: float = CONFIDENCE
    bounds: Bounds | None = None
    row_count: int = 0
    group_count: int = 0
    minimum_detectable_effect: float | None = None

    @property
    def tier(self) -> Tier:
        return self.condition.tier

    @property
    def worst_estimate(self) -> float:
        return self.bounds.worst if self.bounds else self.estimate

    @property
    def best_estimate(self) -> float:
        return self.bounds.best if self.bounds else self.estimate


@dataclass(frozen=True)
class LimitDecision:
    """One limit, judged. `value` is None if the evaluation does not have it. A cost is a total, a point."""

    limit: GateLimit
    outcome: ConditionOutcome = ConditionOutcome.INSUFFICIENT_EVIDENCE
    value: float | None = None
    interval: Interval | None = None
    explanation: str = ""

    @property
    def tier(self) -> Tier:
        return self.limit.tier


@dataclass(frozen=True)
class GateDecision:
    """The outcome, with all conditions and limits in the policy's order. `warnings`: what weakens it without changing
    it.
    """

    outcome: GateOutcome
    conditions: tuple[ConditionDecision, ...]
    warnings: tuple[str, ...] = ()
    limits: tuple[LimitDecision, ...] = ()


def judge(
    policy: GatePolicy,
    results: MetricResults,
    *,
    slices: Mapping[str, MetricResults] | None = None,
    costs: Sequence[ArmCost] = (),
) -> GateDecision:
    """What the policy says of an evaluation. A pure function: the same input gives the same decision."""
    conditions = _judge_conditions(policy, results, slices or {})
    limits = tuple(_judge_limit(limit, costs) for limit in policy.limits)
    return GateDecision(_outcome([*conditions, *limits]), conditions, limits=limits)


def _outcome(judged: Sequence[ConditionDecision | LimitDecision]) -> GateOutcome:
    """The line that decides."""
    critical = [one.outcome for one in judged if one.tier is Tier.CRITICAL]
    if any(one.outcome is ConditionOutcome.BREACH for one in judged if one.tier is not Tier.ADVISORY):
        return GateOutcome.NO_GO
    if not critical or ConditionOutcome.INSUFFICIENT_EVIDENCE in critical:
        return GateOutcome.INCONCLUSIVE
    return GateOutcome.GO


def _judge_conditions(
    policy: GatePolicy, results: MetricResults, slices: Mapping[str, MetricResults]
) -> tuple[ConditionDecision, ...]:
    found = [_evidence(condition, policy, results, slices) for condition in policy.conditions]
    claims = _corrected([one.p_value for one in found], policy)
    breaches = _corrected([_p_breach(one) for one in found], policy)
    return tuple(map(_decided, found, claims, breaches))


def _evidence(
    condition: GateCondition, policy: GatePolicy, results: MetricResults, slices: Mapping[str, MetricResults]
) -> ConditionDecision:
    """What the results say of a condition, not yet decided. It has a p-value exactly if there is enough evidence."""

    def lacking(found: ConditionDecision, why: str) -> ConditionDecision:
        return replace(found, explanation=f"{condition.claim}: {why}.")

    undecided = ConditionDecision(condition=condition)
    rows = slices.get(condition.slice) if condition.slice else results
    if rows is None:
        return lacking(undecided, f"the evaluation has no such slice; it has {', '.join(slices) or 'none'}")
    result = condition.result_in(rows)
    metrics = [rows.metric(arm, condition.metric) for arm in (condition.arm, condition.reference) if arm]
    if result is None or None in metrics:
        return lacking(undecided, "the evaluation has no such result")
    if isinstance(result, Comparison):
        estimate, group_count, detectable = result.difference, result.group_count, result.minimum_detectable_effect
    else:
        estimate, detectable = result.value, None
        group_count = result.interval.group_count if result.interval else rows.group_count
    found = ConditionDecision(
        condition=condition,
        estimate=estimate,
        interval=result.interval,
        coverage=min(one.coverage for one in metrics if one),
        confidence=policy.confidence,
        bounds=result.bounds,
        row_count=result.row_count,
        group_count=group_count,
        minimum_detectable_effect=detectable,
    )
    if found.coverage < policy.min_coverage:
        why = f"only {found.coverage:.0%} of the rows have a score, {policy.min_coverage:.0%} are needed"
        return lacking(replace(found, interval=None), why)
    if found.interval is None:
        return lacking(found, f"{group_count} groups of rows are too few for an interval")
    bound = condition.at_least - (found.worst_estimate - estimate)
    return replace(found, p_value=significance.p_above(estimate, found.interval, bound))


def _p_breach(found: ConditionDecision) -> float | None:
    """The one-sided p-value of the opposite claim, with every missing score at its best."""
    if found.interval is None or found.p_value is None:
        return None
    bound = found.condition.at_least - (found.best_estimate - found.estimate)
    return 1 - significance.p_above(found.estimate, found.interval, bound)


def _corrected(p_values: Sequence[float | None], policy: GatePolicy) -> list[float | None]:
    """For the number of candidates and, among supporting conditions, for each other."""
    supporting = [condition.tier is Tier.SUPPORTING for condition in policy.conditions]
    together = significance.holm(
        [p if mate else None for p, mate in zip(p_values, supporting, strict=True)], picked_from=policy.candidate_count
    )
    alone = [None if p is None else min(1.0, p * policy.candidate_count) for p in p_values]
    return [b if mate else a for a, b, mate in zip(alone, together, supporting, strict=True)]


def _decided(found: ConditionDecision, p_claim: float | None, p_breach: float | None) -> ConditionDecision:
    if found.interval is None or p_claim is None or p_breach is None:
        return found
    outcome = ConditionOutcome.INSUFFICIENT_EVIDENCE
    if p_claim < ONE_SIDED_ALPHA:
        outcome = ConditionOutcome.PASS
    elif p_breach < ONE_SIDED_ALPHA:
        outcome = ConditionOutcome.BREACH
    shown = significance.at_confidence(found.estimate, found.interval, found.confidence)
    found = replace(found, outcome=outcome, interval=shown, adjusted_p_value=p_claim)
    return replace(found, explanation=_explain(found, shown))


def _explain(found: ConditionDecision, interval: Interval) -> str:
    text = f"{found.estimate:+.3f}, {100 * found.confidence:.4g} % interval [{interval.low:+.3f}, {interval.high:+.3f}]"
    if found.best_estimate > found.worst_estimate:
        text += f", rows without a score could make it {found.worst_estimate:+.3f} to {found.best_estimate:+.3f}"
    if found.outcome is ConditionOutcome.PASS:
        return f"{found.condition.claim}: proved ({text})."
    if found.outcome is ConditionOutcome.BREACH:
        return f"{found.condition.claim}: disproved ({text})."
    effect = found.minimum_detectable_effect
    hint = f"; minimum detectable effect {effect:.3f} at 80 % power" if effect else ""
    return f"{found.condition.claim}: neither proved nor disproved ({text}){hint}."


def _judge_limit(limit: GateLimit, costs: Sequence[ArmCost]) -> LimitDecision:
    """By the interval of what is limited; a cost is a total and has none."""
    undecided = LimitDecision(limit)
    own = _taken(limit.arm, limit.quantity, costs)
    other = _taken(limit.reference, limit.quantity, costs) if limit.reference else (1.0, None)
    if own is None or other is None or other[0] <= 0:
        return replace(undecided, explanation=f"{limit.claim}: the evaluation has no such result.")
    value, is_total = own[0] / other[0], limit.quantity is Quantity.COST_PER_1000
    interval = Interval(value, value, "total", 0)
    if not is_total:
        if own[1] is None or (limit.reference and other[1] is None):
            return replace(undecided, value=value, explanation=f"{limit.claim}: too few answers for an interval.")
        lowest, highest = (other[1].low, other[1].high) if other[1] else (1.0, 1.0)
        high = own[1].high / lowest if lowest > 0 else float("inf")
        interval = Interval(own[1].low / highest, high, own[1].method, own[1].group_count)
    outcome, word = ConditionOutcome.INSUFFICIENT_EVIDENCE, "not decided"
    if interval.high <= limit.at_most:
        outcome, word = ConditionOutcome.PASS, "kept"
    elif interval.low > limit.at_most:
        outcome, word = ConditionOutcome.BREACH, "exceeded"
    text = ", a total" if is_total else f", 95 % interval [{interval.low:.4g}, {interval.high:.4g}]"
    return LimitDecision(limit, outcome, value, interval, f"{limit.claim}: {word} ({value:.4g}{text}).")


def _taken(arm: Arm, quantity: Quantity, costs: Sequence[ArmCost]) -> tuple[float, Interval | None] | None:
    """The value and its interval; None if the arm was not run or never answered."""
    found = next((cost for cost in costs if cost.arm is arm and cost.answered_count), None)
    if found is None:
        return None
    return getattr(found, quantity.value), getattr(found, f"{quantity.value}_interval", None)
