"""What a policy can prove before anything is trained."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from luthierd.evaluator.decisions import gate_plan as gate_plans
from luthierd.evaluator.decisions.gate import ConditionOutcome, GateOutcome
from luthierd.evaluator.decisions.gate_plan import Pilot, plan_gate
from luthierd.evaluator.decisions.gate_policy import GateCondition, GatePolicy, Tier
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import Results
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import TaskSpec
from luthierd.evaluator.domain.scores import Comparison, MetricResult, MetricResults
from luthierd.statistics import clustered
from luthierd.statistics.estimates import Interval
from support.evaluator_material import rows

BETTER = GateCondition(metric=Metric("json_valid"), reference=Arm.BASE)


def pilot(half: float, groups: int) -> Pilot:
    found = Interval(0.1 - half, 0.1 + half, "test", groups)
    figures = MetricResults(
        [
            MetricResult(
                arm=Arm.ADAPTER, metric=Metric("json_valid"), value=0.5, interval=found, row_count=100, scored_count=100
            )
        ],
        [
            Comparison(
                metric=Metric("json_valid"),
                arm=Arm.ADAPTER,
                reference=Arm.BASE,
                difference=0.1,
                interval=found,
                minimum_detectable_effect=None,
                row_count=100,
                group_count=groups,
            )
        ],
    )
    return Pilot(
        "tenants/acme/evaluations/pilot",
        Results(
            overall=figures,
            costs=[],
            row_count=100,
            group_count=groups,
            task=TaskSpec(),
            index_sha256="",
            versions={},
            answers_sha256="",
            report_sha256="",
        ),
    )


def test_a_policy_that_the_rows_can_prove_is_go_and_one_that_they_cannot_is_refused_with_the_number_that_would_do() -> (
    None
):
    enough = plan_gate(GatePolicy((BETTER,)), rows(900))
    assert enough.outcome is GateOutcome.GO
    few = plan_gate(GatePolicy((BETTER,)), rows(60))
    assert few.outcome is GateOutcome.NO_GO
    (found,) = few.conditions
    assert found.outcome is ConditionOutcome.INSUFFICIENT_EVIDENCE
    assert found.row_count == 60
    again = plan_gate(GatePolicy((BETTER,)), rows(found.needed_row_count))
    assert again.outcome is GateOutcome.GO
    fewer = plan_gate(GatePolicy((BETTER,)), rows(found.needed_row_count - 6))
    assert fewer.outcome is GateOutcome.NO_GO


def test_the_smallest_provable_effect_is_that_of_the_field_notes() -> None:
    """Paired accuracy at power .8: 6 to 11 points with 200 rows, 3 to 5 with 1,000, each a group of its own."""
    for count, least, most in ((200, 0.06, 0.11), (1000, 0.03, 0.05)):
        alone = [dataclasses.replace(row, group=row.id) for row in rows(count)]
        (found,) = plan_gate(GatePolicy((BETTER,)), alone).conditions
        assert found.minimum_detectable_effect is not None
        assert least <= found.minimum_detectable_effect <= most


def test_groups_make_fewer_rows_of_many() -> None:
    spread = [dataclasses.replace(row, group=row.id) for row in rows(120)]
    lumped = [dataclasses.replace(row, group=str(number % 10)) for number, row in enumerate(rows(120))]
    alone, together = (plan_gate(GatePolicy((BETTER,)), chosen).conditions[0] for chosen in (spread, lumped))
    assert (together.minimum_detectable_effect or 0) > 1.3 * (alone.minimum_detectable_effect or 1)


def test_uneven_groups_are_planned_with_the_error_that_their_correlation_gives() -> None:
    """Against the variance of a mean by its definition: the sum of the rows' covariance matrix."""
    sizes = [30, *[2] * 10, *[1] * 10]
    names = [str(group) for group, size in enumerate(sizes) for _ in range(size)]
    chosen = [dataclasses.replace(row, group=name) for row, name in zip(rows(len(names)), names, strict=True)]
    (found,) = plan_gate(GatePolicy((BETTER,)), chosen).conditions
    same_group = np.equal.outer(names, names)
    correlations = np.where(same_group, gate_plans.ASSUMED_CORRELATION, 0.0)
    np.fill_diagonal(correlations, 1.0)
    error = gate_plans.ASSUMED_BINARY_DEVIATION * math.sqrt(correlations.sum()) / len(names)
    assert found.variance.error == pytest.approx(error)


def test_too_few_groups_prove_nothing_however_many_rows() -> None:
    lumped = [dataclasses.replace(row, group=str(number % 7)) for number, row in enumerate(rows(7000))]
    (found,) = plan_gate(GatePolicy((BETTER,)), lumped).conditions
    assert found.minimum_detectable_effect is None
    assert found.needed_group_count >= clustered.MIN_GROUPS
    assert "fewer than 8 groups" in found.explanation


def test_a_margin_is_proved_of_an_arm_that_is_as_good() -> None:
    margin = dataclasses.replace(BETTER, at_least=-0.05)
    (found,) = plan_gate(GatePolicy((margin,)), rows(60)).conditions
    assert found.condition.expected == 0.0
    assert found.expected_difference == pytest.approx(0.05)


def test_a_bound_above_what_is_expected_is_proved_by_no_number_of_rows() -> None:
    hopeless = dataclasses.replace(BETTER, at_least=0.2, expected=0.1)
    (found,) = plan_gate(GatePolicy((hopeless,)), rows(900)).conditions
    assert (found.needed_row_count, found.needed_group_count) == (0, 0)
    assert "no number of rows" in found.explanation


def test_a_slice_is_planned_by_its_own_rows() -> None:
    some = [
        dataclasses.replace(row, slices=("challenge:vague",) if number < 90 else ())
        for number, row in enumerate(rows(900))
    ]
    policy = GatePolicy((BETTER, dataclasses.replace(BETTER, slice="challenge:vague")))
    whole, part = plan_gate(policy, some).conditions
    assert (whole.outcome, part.outcome) == (ConditionOutcome.PASS, ConditionOutcome.INSUFFICIENT_EVIDENCE)
    assert (part.row_count, part.group_count) == (90, 30)
    missing = plan_gate(GatePolicy((dataclasses.replace(BETTER, slice="none"),)), some)
    assert missing.outcome is GateOutcome.NO_GO


def test_only_critical_conditions_refuse_a_policy() -> None:
    advisory = dataclasses.replace(BETTER, tier=Tier.ADVISORY)
    assert plan_gate(GatePolicy((advisory,)), rows(30)).outcome is GateOutcome.INCONCLUSIVE


def test_the_best_of_many_candidates_needs_more_rows() -> None:
    one, twenty = (
        plan_gate(GatePolicy((BETTER,), candidate_count=count), rows(300)).conditions[0] for count in (1, 20)
    )
    assert twenty.needed_row_count > 1.3 * one.needed_row_count


def test_a_pilot_s_variance_takes_the_place_of_the_assumption() -> None:
    (assumed,) = plan_gate(GatePolicy((BETTER,)), rows(300)).conditions
    assert (assumed.variance.source, assumed.variance.deviation) == ("assumed", 0.5)
    (found,) = plan_gate(GatePolicy((BETTER,)), rows(300), pilot=pilot(0.02, 25)).conditions
    assert found.variance.source == "tenants/acme/evaluations/pilot"
    # Four times the groups halve the standard error.
    wider, narrower = (
        plan_gate(GatePolicy((BETTER,)), rows(count), pilot=pilot(0.02, 25)).conditions[0] for count in (75, 300)
    )
    assert narrower.variance.error == pytest.approx(wider.variance.error / 2)


def test_what_is_called_provable_is_proved_in_four_of_five_evaluations() -> None:
    """Simulated: paired 0/1 scores with the assumed spread, at the expected effect, judged by the real interval."""
    rng = np.random.default_rng(3)
    count = 200
    distance = gate_plans.detectable(0.5 / math.sqrt(count), count)
    assert distance is not None
    won = 0.125 + distance / 2
    proved = 0
    for _ in range(400):
        drawn = rng.random(count)
        differences = (drawn < won).astype(float) - (drawn > 1 - (won - distance)).astype(float)
        found = clustered.bootstrap_interval(
            clustered.mean_of(differences.tolist(), [str(i) for i in range(count)]), seed=0, n_resamples=400
        )
        proved += found is not None and found.low > 0
    assert 0.74 <= proved / 400 <= 0.87
