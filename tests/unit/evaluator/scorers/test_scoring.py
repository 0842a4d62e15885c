"""From answers to figures."""

from __future__ import annotations

import dataclasses

import pytest
from luthierd.evaluator.dataset.parsing import detect_task
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Answer, AnswerError
from luthierd.evaluator.scorers.exact_match import ExactMatchScorer
from luthierd.evaluator.scorers.json_validity import JsonValidityScorer
from luthierd.evaluator.scorers.labels import LabelAccuracyScorer
from luthierd.evaluator.scorers.rouge_l import RougeLScorer
from luthierd.evaluator.scorers.scoring import Scoring
from support.evaluator_material import answer, rows

ROWS = rows(30)
SCORING = Scoring(
    task=detect_task(ROWS),
    scorers=[ExactMatchScorer(), JsonValidityScorer(), LabelAccuracyScorer(), RougeLScorer()],
    n_resamples=500,
)


def perfect(arm: Arm) -> dict[str, Answer]:
    return {row.id: answer(arm, row.id, row.reference) for row in ROWS}


def rambling(arm: Arm) -> dict[str, Answer]:
    return {row.id: answer(arm, row.id, "Certainly! Return something.") for row in ROWS}


def fail(answers: dict[str, Answer], row_ids: list[str]) -> dict[str, Answer]:
    error = AnswerError("PROMPT_TOO_LONG", "too long")
    return {
        key: dataclasses.replace(given, text="", error=error) if key in row_ids else given
        for key, given in answers.items()
    }


async def test_a_perfect_adapter_beats_a_rambling_base_on_every_metric() -> None:
    scored = await SCORING.score(ROWS, {Arm.BASE: rambling(Arm.BASE), Arm.ADAPTER: perfect(Arm.ADAPTER)})
    assert {found.metric for found in scored.overall.metrics} == {
        Metric("exact_match"),
        Metric("json_valid"),
        Metric("label_accuracy"),
        Metric("rouge_l"),
        Metric("label_f1_macro"),
    }
    for metric in {found.metric for found in scored.overall.metrics}:
        compared = scored.overall.comparison(metric, Arm.ADAPTER, Arm.BASE)
        assert compared is not None
        assert compared.interval is not None
        assert compared.interval.low > 0
        assert compared.group_count == 10
        assert compared.row_count == 30


async def test_failed_rows_stay_in_the_mean_as_zero_and_show_in_the_coverage() -> None:
    answers = fail(perfect(Arm.ADAPTER), ["holdout-0", "holdout-1", "holdout-2"])
    scored = await SCORING.score(ROWS, {Arm.ADAPTER: answers})
    found = scored.overall.metric(Arm.ADAPTER, Metric("rouge_l"))
    assert found is not None
    assert found.value == pytest.approx(0.9)
    assert found.coverage == pytest.approx(0.9)


async def test_a_row_that_was_never_asked_is_a_failure_too() -> None:
    answers = perfect(Arm.ADAPTER)
    del answers["holdout-5"]
    scored = await SCORING.score(ROWS, {Arm.ADAPTER: answers})
    failure = next(score.failure for score in scored.rows[0].scores if score.row_id == "holdout-5")
    assert failure == "NOT_ASKED"


async def test_a_failure_of_the_reference_does_not_speak_for_the_arm() -> None:
    failed = [row.id for row in ROWS[:15]]
    scored = await SCORING.score(ROWS, {Arm.BASE: fail(perfect(Arm.BASE), failed), Arm.ADAPTER: perfect(Arm.ADAPTER)})
    for metric in (Metric("rouge_l"), Metric("label_f1_macro"), Metric("json_valid")):
        compared = scored.overall.comparison(metric, Arm.ADAPTER, Arm.BASE)
        assert compared is not None
        assert compared.difference == pytest.approx(0.0)


async def test_text_tasks_have_no_json_validity_and_no_labels() -> None:
    plain = [dataclasses.replace(row, reference=f"Sentence {row.id}.", label=None) for row in ROWS]
    scoring = dataclasses.replace(SCORING, task=detect_task(plain))
    answers = {row.id: answer(Arm.BASE, row.id, row.reference) for row in plain}
    scored = await scoring.score(plain, {Arm.BASE: answers})
    assert {found.metric for found in scored.overall.metrics} == {Metric("exact_match"), Metric("rouge_l")}
    assert scored.confusions == {}


async def test_every_label_and_every_slice_of_a_row_has_figures_of_its_own() -> None:
    marked = [
        dataclasses.replace(row, slices=("challenge:vague",) if number < 24 else ()) for number, row in enumerate(ROWS)
    ]
    scored = await SCORING.score(marked, {Arm.BASE: rambling(Arm.BASE), Arm.ADAPTER: perfect(Arm.ADAPTER)})
    assert list(scored.slices) == ["challenge:vague", "label:linalg", "label:stats"]
    vague = scored.slices["challenge:vague"]
    assert (vague.row_count, vague.group_count) == (24, 8)
    compared = vague.comparison(Metric("rouge_l"), Arm.ADAPTER, Arm.BASE)
    assert compared is not None
    assert compared.interval is not None
    assert compared.interval.low > 0
    assert vague.metric(Arm.ADAPTER, Metric("label_f1_macro")) is not None
    assert scored.slices["label:stats"].metric(Arm.ADAPTER, Metric("label_f1_macro")) is None


async def test_bounds_hold_what_the_failed_rows_could_have_scored() -> None:
    failed = [row.id for row in ROWS[:6]]
    answers = {Arm.BASE: perfect(Arm.BASE), Arm.ADAPTER: fail(perfect(Arm.ADAPTER), failed)}
    scored = await SCORING.score(ROWS, answers)
    for metric in (Metric("rouge_l"), Metric("json_valid"), Metric("label_f1_macro")):
        own = scored.overall.metric(Arm.ADAPTER, metric)
        assert own is not None
        assert own.bounds is not None
        assert own.bounds.worst == pytest.approx(own.value)
        assert own.bounds.best == pytest.approx(1.0)
        assert own.scored_value == pytest.approx(1.0)
        compared = scored.overall.comparison(metric, Arm.ADAPTER, Arm.BASE)
        assert compared is not None
        assert compared.bounds is not None
        assert compared.bounds.worst == pytest.approx(compared.difference)
        assert compared.bounds.best == pytest.approx(0.0)
        assert compared.common is not None
        assert (compared.common.difference, compared.common.row_count) == (pytest.approx(0.0), 24)


async def test_bounds_hold_what_the_failed_rows_of_the_reference_could_have_scored() -> None:
    failed = [row.id for row in ROWS[:12]]
    answers = {Arm.BASE: fail(perfect(Arm.BASE), failed), Arm.ADAPTER: perfect(Arm.ADAPTER)}
    scored = await SCORING.score(ROWS, answers)
    for metric in (Metric("exact_match"), Metric("rouge_l"), Metric("label_f1_macro")):
        compared = scored.overall.comparison(metric, Arm.ADAPTER, Arm.BASE)
        assert compared is not None
        assert compared.bounds is not None
        assert compared.bounds.worst == pytest.approx(0.0)
        assert compared.bounds.best > 0.2


async def test_identical_arms_are_never_told_apart() -> None:
    answers = perfect(Arm.ADAPTER) | {row.id: answer(Arm.ADAPTER, row.id, "no") for row in ROWS[::3]}
    scored = await SCORING.score(ROWS, {Arm.BASE: answers, Arm.ADAPTER: answers})
    for compared in scored.overall.comparisons:
        assert compared.interval is not None
        assert compared.interval.low <= 0 <= compared.interval.high
        assert compared.p_value == 1.0


async def test_p_values_are_corrected_for_the_number_of_comparisons() -> None:
    scored = await SCORING.score(
        ROWS, {arm: rambling(arm) for arm in (Arm.BASE, Arm.RAG)} | {Arm.ADAPTER: perfect(Arm.ADAPTER)}
    )
    found = scored.overall.comparisons
    assert all(one.p_value is not None and one.adjusted_p_value is not None for one in found)
    least = min(found, key=lambda one: one.p_value or 0.0)
    assert least.adjusted_p_value == pytest.approx(min(1.0, len(found) * (least.p_value or 0.0)))


async def test_independent_rows_of_zero_and_one_get_tango_s_interval_and_mcnemar_s_test() -> None:
    alone = [dataclasses.replace(row, group=row.id) for row in ROWS]
    mixed = perfect(Arm.BASE) | {row.id: answer(Arm.BASE, row.id, "no") for row in ROWS[:8]}
    scored = await SCORING.score(alone, {Arm.BASE: mixed, Arm.ADAPTER: perfect(Arm.ADAPTER)})
    compared = scored.overall.comparison(Metric("json_valid"), Arm.ADAPTER, Arm.BASE)
    assert compared is not None
    assert compared.interval is not None
    assert (compared.interval.method, compared.test) == ("Tango score", "McNemar mid-p")
    assert compared.p_value == pytest.approx(2 * 0.5**8 / 2)
