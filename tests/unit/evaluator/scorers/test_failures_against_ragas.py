"""The same outputs, the same judge, some of its calls failing: RAGAS's own aggregation against ours.

The judge fails on the rows that the adapter answered worst, as judges do: long or broken answers are what they choke
on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from luthierd.evaluator.decisions.gate import GateOutcome, judge
from luthierd.evaluator.decisions.gate_policy import GateCondition, GatePolicy
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Message, Row
from luthierd.evaluator.domain.scores import Comparison, MetricResult, RowScores, Score
from luthierd.evaluator.graders import ragas  # noqa: F401  (switches RAGAS's tracking off before its import)
from luthierd.evaluator.scorers.metric_table import MetricTable
from ragas import EvaluationDataset, SingleTurnSample
from ragas.evaluation import aevaluate
from ragas.metrics.base import MetricType, SingleTurnMetric

COUNT, GROUPS = 120, 30
SHARES = (0.0, 0.1, 0.2, 0.3)


@dataclass
class Judged(SingleTurnMetric):
    """A judge that gives the score written in the answer, and fails where the answer says so."""

    name: str = "judged"
    _required_columns: dict[MetricType, set[str]] = field(
        default_factory=lambda: {MetricType.SINGLE_TURN: {"response"}}
    )

    def init(self, run_config: Any) -> None:
        """Nothing to set up."""

    async def _single_turn_ascore(self, sample: SingleTurnSample, callbacks: Any) -> float:
        if sample.response == "fails":
            raise ValueError("the judge's answer is no JSON")
        return float(sample.response or "nan")


@pytest.fixture(scope="module")
def truth() -> Mapping[Arm, list[float]]:
    """The adapter is worse than base by about a twentieth."""
    rng = np.random.default_rng(7)
    common = np.repeat(0.1 * rng.standard_normal(GROUPS), COUNT // GROUPS)
    base = np.clip(0.6 + common + 0.2 * rng.standard_normal(COUNT), 0, 1)
    adapter = np.clip(0.54 + common + 0.2 * rng.standard_normal(COUNT), 0, 1)
    return {Arm.BASE: base.tolist(), Arm.ADAPTER: adapter.tolist()}


def with_failures(scores: list[float], share: float) -> list[float | None]:
    """The judge fails on this share of the rows, the worst ones."""
    worst = set(np.argsort(scores)[: round(share * len(scores))].tolist())
    return [None if position in worst else score for position, score in enumerate(scores)]


async def of_ragas(scores: list[float | None]) -> float:
    answers = ["fails" if score is None else repr(score) for score in scores]
    dataset = EvaluationDataset([SingleTurnSample(response=answer) for answer in answers])
    result = await aevaluate(dataset, [Judged()], raise_exceptions=False, show_progress=False)
    return float(result._repr_dict["judged"])  # what its `repr` prints: it has no other name


def of_ours(scores: Mapping[Arm, list[float | None]]) -> tuple[MetricResult, Comparison, GateOutcome]:
    rows = [
        Row(
            id=str(number),
            group=str(number * GROUPS // COUNT),
            label=None,
            prompt=(Message("user", "q"),),
            reference="r",
        )
        for number in range(COUNT)
    ]
    scored = [
        RowScores(arm, Metric("rouge_l"), [Score(row.id, value) for row, value in zip(rows, values, strict=True)])
        for arm, values in scores.items()
    ]
    found = MetricTable(
        rows=rows,
        samples=dict.fromkeys(scores, ()),
        row_scores=scored,
        seed=0,
        n_resamples=800,
        labelled=False,
    ).results()
    own = found.metric(Arm.ADAPTER, Metric("rouge_l"))
    compared = found.comparison(Metric("rouge_l"), Arm.ADAPTER, Arm.BASE)
    assert own is not None
    assert compared is not None
    policy = GatePolicy((GateCondition(metric=Metric("rouge_l"), reference=Arm.BASE),), min_coverage=0.0)
    return own, compared, judge(policy, found).outcome


async def test_ragas_s_mean_rises_as_the_judge_fails_and_turns_the_comparison(
    truth: Mapping[Arm, list[float]],
) -> None:
    base = await of_ragas(list(truth[Arm.BASE]))
    adapter = [await of_ragas(with_failures(truth[Arm.ADAPTER], share)) for share in SHARES]
    assert adapter == sorted(adapter)
    assert adapter[0] < base
    assert adapter[-1] > base


def test_ours_never_turns_and_says_what_is_missing(truth: Mapping[Arm, list[float]]) -> None:
    full = math.fsum(truth[Arm.ADAPTER]) / COUNT
    difference = full - math.fsum(truth[Arm.BASE]) / COUNT
    for share in SHARES:
        failing = with_failures(truth[Arm.ADAPTER], share)
        own, compared, outcome = of_ours({Arm.BASE: list(truth[Arm.BASE]), Arm.ADAPTER: failing})
        assert own.coverage == pytest.approx(1 - share)
        assert own.value <= full + 1e-9
        assert own.bounds is not None
        assert own.bounds.worst - 1e-9 <= full <= own.bounds.best + 1e-9
        assert compared.difference < 0
        assert compared.bounds is not None
        assert compared.bounds.worst - 1e-9 <= difference <= compared.bounds.best + 1e-9
        assert outcome is not GateOutcome.GO


def test_the_arms_are_compared_on_common_rows_too_and_that_is_shown_beside(
    truth: Mapping[Arm, list[float]],
) -> None:
    failing = with_failures(truth[Arm.ADAPTER], 0.3)
    _, compared, _ = of_ours({Arm.BASE: list(truth[Arm.BASE]), Arm.ADAPTER: failing})
    assert compared.common is not None
    assert compared.common.row_count == 84
    assert compared.common.difference > compared.difference


def test_a_judge_that_fails_on_the_reference_alone_makes_no_go(truth: Mapping[Arm, list[float]]) -> None:
    """Equal arms; the judge loses a third of base's good rows. Nothing may come of it."""
    best = with_failures([-score for score in truth[Arm.BASE]], 0.3)
    lost = [None if missing is None else score for missing, score in zip(best, truth[Arm.BASE], strict=True)]
    _, compared, outcome = of_ours({Arm.BASE: lost, Arm.ADAPTER: list(truth[Arm.BASE])})
    assert compared.difference == pytest.approx(0.0)
    assert outcome is GateOutcome.INCONCLUSIVE


def test_a_judge_that_fails_on_the_adapter_s_rows_cannot_make_a_breach(truth: Mapping[Arm, list[float]]) -> None:
    """Equal arms; a third of the adapter's scores are lost. It is not worse for that."""
    failing = with_failures(truth[Arm.BASE], 0.3)
    _, _, outcome = of_ours({Arm.BASE: list(truth[Arm.BASE]), Arm.ADAPTER: failing})
    assert outcome is GateOutcome.INCONCLUSIVE
