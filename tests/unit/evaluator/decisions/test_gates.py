"""The gate's decisions."""

from __future__ import annotations

import dataclasses

import pytest
from luthierd.evaluator.decisions.gate import ConditionOutcome, GateOutcome, judge
from luthierd.evaluator.decisions.gate_policy import GateCondition, GateLimit, GatePolicy, Quantity, Tier
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import ArmCost, Comparison, MetricResult, MetricResults
from luthierd.statistics.estimates import Bounds, Interval


def figures(low: float, high: float, *, coverage: float = 1.0, interval: bool = True) -> MetricResults:
    found = Interval(low, high, "test", 20) if interval else None
    middle = (low + high) / 2
    return MetricResults(
        metrics=[
            MetricResult(
                arm=arm,
                metric=Metric("rouge_l"),
                value=middle,
                interval=found,
                row_count=100,
                scored_count=round(100 * coverage),
            )
            for arm in (Arm.BASE, Arm.ADAPTER)
        ],
        comparisons=[
            Comparison(
                metric=Metric("rouge_l"),
                arm=Arm.ADAPTER,
                reference=Arm.BASE,
                difference=middle,
                interval=found,
                minimum_detectable_effect=0.04,
                row_count=100,
                group_count=20,
            )
        ],
    )


SUPERIOR = GateCondition(metric=Metric("rouge_l"), reference=Arm.BASE)


def outcome(condition: GateCondition, scored: MetricResults) -> tuple[GateOutcome, ConditionOutcome]:
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
    condition = GateCondition(metric=Metric("rouge_l"), reference=Arm.BASE, at_least=-0.05)
    assert outcome(condition, figures(-0.02, 0.03))[0] is GateOutcome.GO


def test_a_floor_judges_the_arm_s_own_interval() -> None:
    floor = GateCondition(metric=Metric("rouge_l"), at_least=0.3)
    assert outcome(floor, figures(0.35, 0.45))[0] is GateOutcome.GO
    assert outcome(floor, figures(0.10, 0.25))[0] is GateOutcome.NO_GO


def test_an_advisory_breach_decides_nothing() -> None:
    advisory = GateCondition(metric=Metric("rouge_l"), reference=Arm.BASE, at_least=0.5, tier=Tier.ADVISORY)
    decision = judge(GatePolicy((SUPERIOR, advisory)), figures(0.05, 0.20))
    assert decision.outcome is GateOutcome.GO
    assert decision.conditions[1].outcome is ConditionOutcome.BREACH


def test_only_advisory_conditions_never_make_a_go() -> None:
    advisory = GateCondition(metric=Metric("rouge_l"), reference=Arm.BASE, tier=Tier.ADVISORY)
    assert judge(GatePolicy((advisory,)), figures(0.05, 0.20)).outcome is GateOutcome.INCONCLUSIVE


def test_a_breach_outweighs_missing_evidence() -> None:
    missing = GateCondition(metric=Metric("chrf"), reference=Arm.BASE)
    decision = judge(GatePolicy((missing, SUPERIOR)), figures(-0.20, -0.05))
    assert decision.outcome is GateOutcome.NO_GO
    assert "no such result" in decision.conditions[0].explanation


def test_low_coverage_is_no_evidence_whatever_the_interval() -> None:
    assert outcome(SUPERIOR, figures(0.05, 0.20, coverage=0.9)) == (
        GateOutcome.INCONCLUSIVE,
        ConditionOutcome.INSUFFICIENT_EVIDENCE,
    )


def test_too_few_groups_for_an_interval_is_no_evidence() -> None:
    decision = judge(GatePolicy((SUPERIOR,)), figures(0.05, 0.20, interval=False))
    assert decision.outcome is GateOutcome.INCONCLUSIVE
    assert "too few" in decision.conditions[0].explanation


def test_a_supporting_condition_needs_no_proof_but_its_breach_is_no_go() -> None:
    supporting = GateCondition(metric=Metric("rouge_l"), reference=Arm.BASE, at_least=0.12, tier=Tier.SUPPORTING)
    assert judge(GatePolicy((SUPERIOR, supporting)), figures(0.05, 0.20)).outcome is GateOutcome.GO
    breached = dataclasses.replace(supporting, at_least=0.5)
    assert judge(GatePolicy((SUPERIOR, breached)), figures(0.05, 0.20)).outcome is GateOutcome.NO_GO
    assert judge(GatePolicy((supporting,)), figures(0.05, 0.20)).outcome is GateOutcome.INCONCLUSIVE


def test_one_breach_among_many_supporting_conditions_is_corrected_for_their_number() -> None:
    near = GateCondition(metric=Metric("rouge_l"), reference=Arm.BASE, at_least=0.203, tier=Tier.SUPPORTING)
    alone = judge(GatePolicy((SUPERIOR, near)), figures(0.05, 0.20))
    assert alone.conditions[1].outcome is ConditionOutcome.BREACH
    others = tuple(dataclasses.replace(near, at_least=0.0) for _ in range(9))
    among = judge(GatePolicy((SUPERIOR, near, *others)), figures(0.05, 0.20))
    assert among.conditions[1].outcome is ConditionOutcome.INSUFFICIENT_EVIDENCE
    assert among.outcome is GateOutcome.GO


def test_the_best_of_twenty_candidates_is_judged_as_such() -> None:
    barely = figures(0.01, 0.20)
    assert judge(GatePolicy((SUPERIOR,)), barely).outcome is GateOutcome.GO
    decision = judge(GatePolicy((SUPERIOR,), candidate_count=20), barely)
    assert decision.outcome is GateOutcome.INCONCLUSIVE
    (found,) = decision.conditions
    assert found.confidence == pytest.approx(0.9975)
    assert found.interval is not None
    assert found.interval.low < 0
    assert found.p_value is not None
    assert found.adjusted_p_value == pytest.approx(20 * found.p_value)


def test_p_values_and_intervals_agree() -> None:
    for low, high in ((0.001, 0.2), (-0.001, 0.2)):
        (found,) = judge(GatePolicy((SUPERIOR,)), figures(low, high)).conditions
        assert found.p_value is not None
        assert (found.p_value < 0.025) == (low > 0) == (found.outcome is ConditionOutcome.PASS)


def with_bounds(scored: MetricResults, worst: float, best: float) -> MetricResults:
    return dataclasses.replace(
        scored, comparisons=[dataclasses.replace(scored.comparisons[0], bounds=Bounds(worst, best))]
    )


def test_a_pass_must_hold_with_every_missing_score_at_its_worst() -> None:
    assert outcome(SUPERIOR, with_bounds(figures(0.05, 0.15), 0.08, 0.10))[0] is GateOutcome.GO
    assert outcome(SUPERIOR, with_bounds(figures(0.05, 0.15), 0.04, 0.10))[0] is GateOutcome.INCONCLUSIVE


def test_a_breach_must_hold_with_every_missing_score_at_its_best() -> None:
    assert outcome(SUPERIOR, with_bounds(figures(-0.15, -0.05), -0.10, -0.08))[0] is GateOutcome.NO_GO
    assert outcome(SUPERIOR, with_bounds(figures(-0.15, -0.05), -0.10, -0.04))[0] is GateOutcome.INCONCLUSIVE


def test_a_condition_on_a_slice_is_judged_by_the_slice() -> None:
    condition = GateCondition(metric=Metric("rouge_l"), reference=Arm.BASE, slice="challenge:vague")
    slices = {"challenge:vague": figures(-0.20, -0.05)}
    assert judge(GatePolicy((condition,)), figures(0.05, 0.20), slices=slices).outcome is GateOutcome.NO_GO
    unknown = judge(GatePolicy((condition,)), figures(0.05, 0.20), slices={"label:a": figures(0.1, 0.2)})
    assert unknown.outcome is GateOutcome.INCONCLUSIVE
    assert "it has label:a" in unknown.conditions[0].explanation


def cost(arm: Arm, *, latency: tuple[float, float, float], price: float) -> ArmCost:
    middle, low, high = latency
    spread = Interval(low, high, "order statistics", 100)
    return ArmCost(
        arm=arm,
        answered_count=100,
        failed_count=0,
        ttft_ms_p50=middle,
        latency_ms_p50=middle,
        latency_ms_p95=middle,
        prompt_tokens_mean=1.0,
        completion_tokens_mean=1.0,
        busy_s=1.0,
        cost_per_1000_answers=price,
        ttft_ms_p50_interval=spread,
        latency_ms_p50_interval=spread,
        latency_ms_p95_interval=spread,
    )


COSTS = [
    cost(Arm.BASE, latency=(100.0, 90.0, 110.0), price=0.5),
    cost(Arm.ADAPTER, latency=(200.0, 180.0, 220.0), price=1.0),
]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (GateLimit(Quantity.LATENCY_MS_P95, 250.0), GateOutcome.GO),
        (GateLimit(Quantity.LATENCY_MS_P95, 200.0), GateOutcome.INCONCLUSIVE),
        (GateLimit(Quantity.LATENCY_MS_P95, 150.0), GateOutcome.NO_GO),
        (GateLimit(Quantity.COST_PER_1000, 1.0), GateOutcome.GO),
        (GateLimit(Quantity.COST_PER_1000, 0.9), GateOutcome.NO_GO),
        (GateLimit(Quantity.TTFT_MS_P50, 2.5, reference=Arm.BASE), GateOutcome.GO),
        (GateLimit(Quantity.TTFT_MS_P50, 2.0, reference=Arm.BASE), GateOutcome.INCONCLUSIVE),
        (GateLimit(Quantity.TTFT_MS_P50, 1.5, reference=Arm.BASE), GateOutcome.NO_GO),
        (GateLimit(Quantity.COST_PER_1000, 1.9, reference=Arm.BASE), GateOutcome.NO_GO),
        (GateLimit(Quantity.COST_PER_1000, 1.0, arm=Arm.RAG), GateOutcome.INCONCLUSIVE),
        (GateLimit(Quantity.COST_PER_1000, 0.1, tier=Tier.ADVISORY), GateOutcome.GO),
    ],
)
def test_limits_on_latency_and_price_decide_too(limit: GateLimit, expected: GateOutcome) -> None:
    policy = GatePolicy((SUPERIOR,), limits=(limit,))
    assert judge(policy, figures(0.05, 0.20), costs=COSTS).outcome is expected


def test_the_coverage_that_is_asked_for_is_enough_and_both_arms_must_have_it() -> None:
    assert outcome(SUPERIOR, figures(0.05, 0.20, coverage=0.95))[0] is GateOutcome.GO
    whole = figures(0.05, 0.20)
    base, adapter = whole.metrics
    failed = dataclasses.replace(whole, metrics=[dataclasses.replace(base, scored_count=90), adapter])
    assert outcome(SUPERIOR, failed) == (GateOutcome.INCONCLUSIVE, ConditionOutcome.INSUFFICIENT_EVIDENCE)


def test_a_supporting_breach_is_corrected_for_the_candidates_too() -> None:
    near = GateCondition(metric=Metric("rouge_l"), reference=Arm.BASE, at_least=0.203, tier=Tier.SUPPORTING)
    assert judge(GatePolicy((near,)), figures(0.05, 0.20)).conditions[0].outcome is ConditionOutcome.BREACH
    picked = judge(GatePolicy((near,), candidate_count=20), figures(0.05, 0.20))
    assert picked.conditions[0].outcome is ConditionOutcome.INSUFFICIENT_EVIDENCE


def test_a_ratio_of_latencies_is_as_wide_as_both_of_its_sides() -> None:
    policy = GatePolicy((SUPERIOR,), limits=(GateLimit(Quantity.TTFT_MS_P50, 2.0, reference=Arm.BASE),))
    (found,) = judge(policy, figures(0.05, 0.20), costs=COSTS).limits
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((180 / 110, 220 / 90))


def test_an_arm_that_never_answered_keeps_no_limit() -> None:
    silent = [dataclasses.replace(one, answered_count=0) for one in COSTS]
    policy = GatePolicy((SUPERIOR,), limits=(GateLimit(Quantity.COST_PER_1000, 5.0),))
    assert judge(policy, figures(0.05, 0.20), costs=silent).outcome is GateOutcome.INCONCLUSIVE
