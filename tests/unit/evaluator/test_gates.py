"""The gate's decisions."""

from __future__ import annotations

from luthierd.evaluator.domain import Arm, Comparison, Figures, Interval, Metric, MetricResult
from luthierd.evaluator.gates import ConditionOutcome, GateCondition, GateOutcome, GatePolicy, Tier, judge


def figures(low: float, high: float, *, coverage: float = 1.0, interval: bool = True) -> Figures:
    found = Interval(low, high, "test", 20) if interval else None
    middle = (low + high) / 2
    return Figures(
        metrics=[
            MetricResult(arm, Metric.ROUGE_L, middle, found, 100, round(100 * coverage))
            for arm in (Arm.BASE, Arm.ADAPTER)
        ],
        comparisons=[Comparison(Metric.ROUGE_L, Arm.ADAPTER, Arm.BASE, middle, found, 0.04, 100, 20)],
    )


SUPERIOR = GateCondition(Metric.ROUGE_L, reference=Arm.BASE)


def outcome(condition: GateCondition, scored: Figures) -> tuple[GateOutcome, ConditionOutcome]:
    decision = judge(GatePolicy((condition,)), scored)
    return decision.outcome, decision.conditions[0].outcome


def test_an_interval_above_the_bound_is_go() -> None:
    assert outcome(SUPERIOR, figures(0.05, 0.20)) == (GateOutcome.GO, ConditionOutcome.PASS)


def test_an_interval_below_the_bound_is_no_go() -> None:
    assert outcome(SUPERIOR, figures(-0.20, -0.05)) == (GateOutcome.NO_GO, ConditionOutcome.BREACH)


def test_an_interval_over_the_bound_is_inconclusive_however_good_the_mean() -> None:
    assert outcome(SUPERIOR, figures(-0.01, 0.40)) == (GateOutcome.INCONCLUSIVE, ConditionOutcome.INSUFFICIENT_EVIDENCE)


def test_an_undecided_condition_says_what_difference_the_data_can_prove() -> None:
    explanation = judge(GatePolicy((SUPERIOR,)), figures(-0.01, 0.40)).conditions[0].explanation
    assert "0.040" in explanation


def test_a_margin_below_zero_asks_for_no_more_than_not_being_worse() -> None:
    condition = GateCondition(Metric.ROUGE_L, reference=Arm.BASE, at_least=-0.05)
    assert outcome(condition, figures(-0.02, 0.03))[0] is GateOutcome.GO


def test_a_floor_judges_the_arm_s_own_interval() -> None:
    floor = GateCondition(Metric.ROUGE_L, at_least=0.3)
    assert outcome(floor, figures(0.35, 0.45))[0] is GateOutcome.GO
    assert outcome(floor, figures(0.10, 0.25))[0] is GateOutcome.NO_GO


def test_an_advisory_breach_decides_nothing() -> None:
    advisory = GateCondition(Metric.ROUGE_L, reference=Arm.BASE, at_least=0.5, tier=Tier.ADVISORY)
    decision = judge(GatePolicy((SUPERIOR, advisory)), figures(0.05, 0.20))
    assert decision.outcome is GateOutcome.GO
    assert decision.conditions[1].outcome is ConditionOutcome.BREACH


def test_only_advisory_conditions_never_make_a_go() -> None:
    advisory = GateCondition(Metric.ROUGE_L, reference=Arm.BASE, tier=Tier.ADVISORY)
    assert judge(GatePolicy((advisory,)), figures(0.05, 0.20)).outcome is GateOutcome.INCONCLUSIVE


def test_a_breach_outweighs_missing_evidence() -> None:
    missing = GateCondition(Metric.CHRF, reference=Arm.BASE)
    decision = judge(GatePolicy((missing, SUPERIOR)), figures(-0.20, -0.05))
    assert decision.outcome is GateOutcome.NO_GO
    assert "no such figure" in decision.conditions[0].explanation


def test_low_coverage_is_no_evidence_whatever_the_interval() -> None:
    assert outcome(SUPERIOR, figures(0.05, 0.20, coverage=0.9)) == (
        GateOutcome.INCONCLUSIVE, ConditionOutcome.INSUFFICIENT_EVIDENCE,
    )  # fmt: skip


def test_too_few_groups_for_an_interval_is_no_evidence() -> None:
    decision = judge(GatePolicy((SUPERIOR,)), figures(0.05, 0.20, interval=False))
    assert decision.outcome is GateOutcome.INCONCLUSIVE
    assert "too few" in decision.conditions[0].explanation
