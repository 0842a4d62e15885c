"""Two evaluations beside each other: what of them was compared, and what was not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from luthierd.evaluator.decisions.comparison import Gap, NoCommonRowError, compare
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs, FinishedEvaluation, Results
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import TaskSpec
from luthierd.evaluator.domain.scores import MetricResult, MetricResults, SuiteResult

INPUTS = EvaluationInputs(**{field.name: field.name for field in dataclasses.fields(EvaluationInputs)[:9]})
F1 = MetricResult(
    arm=Arm.BASE, metric=Metric("label_f1_macro"), value=0.5, interval=None, row_count=10, scored_count=10
)


def evaluation(name: str, *, suites: Mapping[str, str]) -> FinishedEvaluation:
    """A SUCCEEDED one. suites: name to digest of its items."""
    results = Results(
        overall=MetricResults([F1], [], 10, 10),
        costs=[],
        row_count=10,
        group_count=10,
        task=TaskSpec(),
        index_sha256="",
        versions={},
        answers_sha256="",
        report_sha256="",
        suites=[
            SuiteResult(suite=suite, sha256=digest, item_count=9, answers_sha256="") for suite, digest in suites.items()
        ],
    )
    return FinishedEvaluation(name, INPUTS, EvaluationConfig(), results)


def scored(scores: Mapping[Arm, Mapping[str, Sequence[float | None]]], *, first: int = 0) -> list[dict[str, Any]]:
    """Ten rows, each a group of its own, numbered from `first`; a score of None is missing."""
    return [
        {
            "row_id": f"r{first + at}",
            "question": "q",
            "reference": "a",
            "group": f"g{first + at}",
            "answers": [
                {"arm": arm, "scores": {metric: said[at] for metric, said in given.items() if said[at] is not None}}
                for arm, given in scores.items()
            ],
        }
        for at in range(10)
    ]


ONES, HALVES = [1.0] * 10, [0.5] * 10


def test_arms_metrics_and_suites_of_one_side_are_named_with_the_side() -> None:
    ours = scored({Arm.BASE: {"rouge_l": ONES, "bleu": ONES}, Arm.RAG: {"rouge_l": ONES}})
    theirs = scored({Arm.BASE: {"rouge_l": HALVES, "chrf": ONES}, Arm.ADAPTER: {"rouge_l": ONES}})
    found = compare(
        evaluation("a", suites={"retention": "1", "counterfactual": "2", "all": "3"}),
        ours,
        evaluation("b", suites={"counterfactual": "other", "all": "3"}),
        theirs,
    )
    assert [(one.arm, one.metric, one.difference) for one in found.differences] == [(Arm.BASE, Metric("rouge_l"), 0.5)]
    assert set(found.not_compared) == {
        Gap("arm rag", "only the evaluation has it"),
        Gap("arm adapter", "only the reference has it"),
        Gap("metric bleu of base", "only the evaluation has it"),
        Gap("metric chrf of base", "only the reference has it"),
        Gap("metric label_f1_macro", "computed over all rows at once; see both evaluations' results"),
        Gap("suite retention", "only the evaluation has it"),
        Gap("suite counterfactual", "the two evaluations used different items"),
        Gap("suite all", "the same items, computed as a whole; see both evaluations' results"),
    }


def test_a_row_without_a_score_counts_for_the_side_that_has_one_never_for_the_side_that_failed() -> None:
    failing = scored({Arm.BASE: {"rouge_l": [None] * 4 + [0.75] * 6}})
    whole = scored({Arm.BASE: {"rouge_l": HALVES}})
    one, other = evaluation("a", suites={}), evaluation("b", suites={})
    [worse] = compare(one, failing, other, whole).differences
    assert (worse.row_count, worse.difference) == (10, pytest.approx(0.6 * 0.75 - 0.5))
    assert worse.bounds is not None
    assert (worse.bounds.worst, worse.bounds.best) == pytest.approx((0.45 - 0.5, 0.85 - 0.5))
    [better] = compare(other, whole, one, failing).differences
    assert better.difference == pytest.approx(0.6 * (0.5 - 0.75))


def test_without_a_common_row_nothing_is_compared_and_both_sides_rows_are_named() -> None:
    with pytest.raises(NoCommonRowError) as caught:
        compare(
            evaluation("a", suites={}),
            scored({Arm.BASE: {"rouge_l": ONES}}),
            evaluation("b", suites={}),
            scored({Arm.BASE: {"rouge_l": ONES}}, first=10),
        )
    assert "a (the holdout of dataset_revision)" in str(caught.value)
    assert caught.value.metadata["reference_rows"] == "dataset_revision/holdout"
