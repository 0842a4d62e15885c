"""Challenge cases: proposed the same way each time, checked whole, measured by slice."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from luthierd.evaluator.dataset.abstention import Behaviour
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Message, TaskSpec
from luthierd.evaluator.domain.scores import MetricResults
from luthierd.evaluator.scorers.scorer import ScoringMaterial
from luthierd.evaluator.scorers.scoring import Scoring
from luthierd.evaluator.suites.challenge_cases import (
    ChallengeCase,
    ChallengeCaseError,
    Kind,
    check_cases,
    read_cases,
    write_cases,
)
from luthierd.evaluator.suites.challenge_generation import generate_cases
from luthierd.evaluator.suites.challenge_suite import ChallengeSuite, rows_of
from luthierd.statistics.proportions import wilson_bounds
from support.evaluator_material import HashingEmbedder, MemoryBlobs, answer, quick_scorers, rows

REFUSAL = "I am sorry, I cannot help with that."


def case(number: int, kind: Kind = Kind.OUT_OF_SCOPE, expected: Behaviour = Behaviour.ABSTAIN) -> ChallengeCase:
    reference = f"Answer {number}." if expected is Behaviour.ANSWER else ""
    return ChallengeCase(
        case_id=f"{kind}-{number}",
        kind=kind,
        turns=(Message("user", f"Question {number}?"),),
        expected=expected,
        reference=reference,
    )


def measured(cases: list[ChallengeCase], said: dict[Arm, list[str]]) -> dict[str, MetricResults]:
    found = {
        arm: {row.id: answer(arm, row.id, text) for row, text in zip(rows_of(cases), texts, strict=True)}
        for arm, texts in said.items()
    }
    scoring = Scoring(
        task=TaskSpec(), scorers=quick_scorers(ScoringMaterial(embedder=HashingEmbedder())), n_resamples=200
    )
    suite = ChallengeSuite(cases=cases, scoring=scoring, pairs=[(Arm.ADAPTER, Arm.BASE)], seed=0, n_resamples=200)
    return asyncio.run(suite.slices(found))


def test_the_same_rows_and_seed_give_the_same_proposals() -> None:
    holdout = rows(60)
    first = generate_cases(holdout, per_kind_count=8, seed=3)
    assert first == generate_cases(holdout, per_kind_count=8, seed=3)
    assert first != generate_cases(holdout, per_kind_count=8, seed=4)
    assert write_cases(first).kind_counts == dict.fromkeys((kind.value for kind in Kind), 8)
    check_cases(first)


def test_a_proposal_keeps_the_reference_exactly_where_it_still_answers_the_request() -> None:
    by_id = {row.id: row for row in rows(30)}
    for found in generate_cases(list(by_id.values()), per_kind_count=10, seed=0):
        source = by_id.get(found.source_row_id)
        if found.kind in (Kind.EMOTIONAL, Kind.HOSTILE):
            assert source is not None
            assert source.question in found.turns[-1].content
            assert found.reference == source.reference
        else:
            assert found.reference == ""
            assert found.expected.is_abstention
        if found.kind in (Kind.VAGUE, Kind.INCOMPLETE):
            assert source is not None
            assert "return x +" not in found.turns[-1].content
            assert found.group == source.group


def test_a_row_with_nothing_to_ask_gives_no_case() -> None:
    empty = replace(rows(1)[0], prompt=(Message("user", "  "),))
    assert generate_cases([empty], per_kind_count=5, seed=0) == []


def test_cases_survive_the_file_and_the_digest_is_that_of_the_content() -> None:
    cases = generate_cases(rows(12), per_kind_count=3, seed=0)
    file = write_cases(cases)
    again = read_cases(file.data)
    assert again == cases
    assert write_cases(again).sha256 == file.sha256
    assert MemoryBlobs().put_bytes(file.data).sha256 == file.sha256


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"case_id": ""}, "cases[0].case_id"),
        ({"turns": ()}, "cases[0].turns"),
        ({"turns": (Message("user", "a"), Message("assistant", "b"))}, "cases[0].turns"),
        ({"turns": (Message("user", "x" * 20_000),)}, "cases[0].turns"),
        ({"reference": "something"}, "cases[0].reference"),
        ({"expected": Behaviour.ANSWER}, "cases[0].reference"),
        ({"group": "g" * 201}, "cases[0].group"),
    ],
)
def test_a_wrong_case_is_named_by_its_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(ChallengeCaseError) as caught:
        check_cases([replace(case(0), **change)])
    assert caught.value.violations[0].field == field


def test_two_cases_of_one_id_and_a_set_without_cases_are_refused() -> None:
    with pytest.raises(ChallengeCaseError, match="used 2 times"):
        check_cases([case(0), case(0)])
    with pytest.raises(ChallengeCaseError, match="1 to 1,000 cases"):
        check_cases([])


def test_abstention_precision_and_recall_are_the_shares_that_were_due_and_done() -> None:
    """12 cases that no answer is due to, 8 that one is: base answers all, the adapter abstains on 9 and 2 of them."""
    cases = [case(n) for n in range(12)] + [case(n, Kind.HOSTILE, Behaviour.ANSWER) for n in range(8)]
    adapter = [REFUSAL] * 9 + ["Something."] * 3 + [REFUSAL] * 2 + [f"Answer {n}." for n in range(2, 8)]
    slices = measured(cases, {Arm.BASE: ["Something."] * 20, Arm.ADAPTER: adapter})
    everything = slices["challenge"]
    precision = everything.metric(Arm.ADAPTER, Metric("abstention_precision"))
    recall = everything.metric(Arm.ADAPTER, Metric("abstention_recall"))
    behaviour = everything.metric(Arm.ADAPTER, Metric("expected_behaviour"))
    assert precision is not None
    assert recall is not None
    assert behaviour is not None
    assert precision.value == pytest.approx(9 / 11)
    assert recall.value == pytest.approx(9 / 12)
    assert behaviour.value == pytest.approx(15 / 20)
    assert recall.interval is not None
    low, high = wilson_bounds(9 / 12, 12)
    # Student's t instead of the normal, for 12 cases: a little wider than Wilson's.
    assert recall.interval.low == pytest.approx(low, abs=0.05)
    assert recall.interval.high == pytest.approx(high, abs=0.05)
    assert everything.metric(Arm.BASE, Metric("abstention_precision")) is None
    difference = everything.comparison(Metric("abstention_recall"), Arm.ADAPTER, Arm.BASE)
    assert difference is not None
    assert difference.difference == pytest.approx(0.75)
    assert difference.interval is not None
    assert difference.interval.low > 0


def test_each_kind_is_a_slice_and_only_expected_answers_are_scored_against_references() -> None:
    cases = [case(n) for n in range(6)] + [case(n, Kind.HOSTILE, Behaviour.ANSWER) for n in range(6)]
    said = [REFUSAL] * 6 + [f"Answer {n}." for n in range(6)]
    slices = measured(cases, {Arm.ADAPTER: said})
    assert set(slices) == {"challenge", "challenge:out_of_scope", "challenge:hostile"}
    exact = slices["challenge:hostile"].metric(Arm.ADAPTER, Metric("exact_match"))
    assert exact is not None
    assert (exact.value, exact.row_count) == (1.0, 6)
    assert slices["challenge:out_of_scope"].metric(Arm.ADAPTER, Metric("exact_match")) is None
    assert slices["challenge:out_of_scope"].metric(Arm.ADAPTER, Metric("abstention_precision")) is None


def test_a_case_without_an_answer_abstains_from_nothing() -> None:
    cases = [case(n) for n in range(6)]
    given = {Arm.ADAPTER: {row.id: answer(Arm.ADAPTER, row.id, REFUSAL) for row in rows_of(cases)[:3]}}
    suite = ChallengeSuite(cases=cases, scoring=Scoring(task=TaskSpec(), scorers=[]), pairs=[], seed=0, n_resamples=200)
    recall = asyncio.run(suite.slices(given))["challenge"].metric(Arm.ADAPTER, Metric("abstention_recall"))
    assert recall is not None
    assert recall.value == 0.5
    assert recall.coverage == 0.5
