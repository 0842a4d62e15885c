"""The gate: conditions on paired intervals, and what an evaluation says to each of them.

PASS needs the whole interval above the bound, BREACH the whole interval below it; anything else is
INSUFFICIENT_EVIDENCE, which is not a kind of PASS. All critical conditions must hold at once, so testing several needs
no correction for multiplicity (intersection-union test: each at level .05, the gate as a whole at most .05).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from luthierd.evaluator.domain import Arm, Figures, Interval, Metric, TaskSpec

DEFAULT_MIN_COVERAGE = 0.95


class Tier(enum.StrEnum):
    """Weight of a condition: a critical one decides, an advisory one is only shown."""

    CRITICAL = "critical"
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
    is a non-inferiority margin.
    """

    metric: Metric
    arm: Arm = Arm.ADAPTER
    reference: Arm | None = None
    at_least: float = 0.0
    tier: Tier = Tier.CRITICAL


@dataclass(frozen=True)
class GatePolicy:
    """Conditions, and the coverage below which no figure counts as evidence. `name` is empty for a policy given with a
    request.
    """

    conditions: tuple[GateCondition, ...]
    min_coverage: float = DEFAULT_MIN_COVERAGE
    name: str = ""


@dataclass(frozen=True)
class ConditionDecision:
    """One condition, judged. `interval` is None when the evaluation has no such figure or too few groups."""

    condition: GateCondition
    outcome: ConditionOutcome
    estimate: float
    interval: Interval | None
    explanation: str


@dataclass(frozen=True)
class GateDecision:
    """All conditions in the policy's order, and the outcome. `warnings`: what weakens it without changing it."""

    outcome: GateOutcome
    conditions: tuple[ConditionDecision, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Evidence:
    estimate: float
    interval: Interval | None
    coverage: float
    detectable: float | None
    group_count: int


def judge(policy: GatePolicy, figures: Figures) -> GateDecision:
    """What the policy says of an evaluation's figures. A pure function: the same input gives the same decision."""
    decisions = tuple(_judge_condition(condition, policy.min_coverage, figures) for condition in policy.conditions)
    return GateDecision(_overall(decisions), decisions)


def _overall(decisions: Sequence[ConditionDecision]) -> GateOutcome:
    critical = {decision.outcome for decision in decisions if decision.condition.tier is Tier.CRITICAL}
    if ConditionOutcome.BREACH in critical:
        return GateOutcome.NO_GO
    if ConditionOutcome.INSUFFICIENT_EVIDENCE in critical or not critical:
        return GateOutcome.INCONCLUSIVE
    return GateOutcome.GO


def _judge_condition(condition: GateCondition, min_coverage: float, figures: Figures) -> ConditionDecision:
    claim = _claim(condition)
    evidence = _evidence(condition, figures)
    insufficient = ConditionOutcome.INSUFFICIENT_EVIDENCE
    if evidence is None:
        return ConditionDecision(condition, insufficient, 0.0, None, f"{claim}: the evaluation has no such figure.")
    if evidence.coverage < min_coverage:
        why = f"{claim}: only {evidence.coverage:.0%} of the rows have a score, {min_coverage:.0%} are needed."
        return ConditionDecision(condition, insufficient, evidence.estimate, evidence.interval, why)
    if evidence.interval is None:
        why = f"{claim}: {evidence.group_count} groups of rows are too few for an interval."
        return ConditionDecision(condition, insufficient, evidence.estimate, None, why)
    outcome = _outcome(evidence.interval, condition.at_least)
    return ConditionDecision(
        condition, outcome, evidence.estimate, evidence.interval, _explain(claim, evidence, outcome)
    )


def _outcome(interval: Interval, at_least: float) -> ConditionOutcome:
    if interval.low > at_least:
        return ConditionOutcome.PASS
    if interval.high < at_least:
        return ConditionOutcome.BREACH
    return ConditionOutcome.INSUFFICIENT_EVIDENCE


def _evidence(condition: GateCondition, figures: Figures) -> _Evidence | None:
    own = figures.metric(condition.arm, condition.metric)
    if condition.reference is None:
        groups = own.interval.group_count if own and own.interval else 0
        return _Evidence(own.value, own.interval, own.coverage, None, groups) if own else None
    other = figures.metric(condition.reference, condition.metric)
    found = figures.comparison(condition.metric, condition.arm, condition.reference)
    if own is None or other is None or found is None:
        return None
    coverage = min(own.coverage, other.coverage)
    return _Evidence(found.difference, found.interval, coverage, found.detectable_difference, found.group_count)


def _claim(condition: GateCondition) -> str:
    subject = f"{condition.metric} of {condition.arm}"
    if condition.reference is not None:
        subject += f" minus {condition.reference}"
    return f"{subject} above {condition.at_least:g}"


def _explain(claim: str, evidence: _Evidence, outcome: ConditionOutcome) -> str:
    interval = evidence.interval
    assert interval is not None
    found = f"{evidence.estimate:+.3f}, 95 % interval [{interval.low:+.3f}, {interval.high:+.3f}]"
    if outcome is ConditionOutcome.PASS:
        return f"{claim}: proved ({found})."
    if outcome is ConditionOutcome.BREACH:
        return f"{claim}: disproved ({found})."
    hint = (
        f"; rows like these prove a difference from about {evidence.detectable:.3f} on" if evidence.detectable else ""
    )
    return f"{claim}: not proved and not disproved ({found}){hint}."


def primary_metric(task: TaskSpec) -> Metric:
    """The metric that decides by default: ROUGE-L where answers hold text, label accuracy where they are
    labels only.
    """
    if task.kind.decisive:
        return task.kind.decisive
    return Metric.LABEL_ACCURACY if task.is_json and task.text_field is None else Metric.ROUGE_L


def default_policy(figures: Figures, task: TaskSpec) -> GatePolicy:
    """The rules of the report's verdict: the adapter's primary metric beats base and prompting, its JSON
    beats base's.
    """
    primary = primary_metric(task)
    wanted = [
        GateCondition(primary, reference=Arm.BASE),
        GateCondition(primary, reference=Arm.PROMPTED),
        GateCondition(Metric.JSON_VALID, reference=Arm.BASE),
    ]
    measured = {(found.metric, found.reference) for found in figures.comparisons if found.arm is Arm.ADAPTER}
    return GatePolicy(tuple(one for one in wanted if (one.metric, one.reference) in measured))
