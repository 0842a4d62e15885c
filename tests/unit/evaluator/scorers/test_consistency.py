"""The additional questions of the metrics that one answer cannot give."""

from __future__ import annotations

import json
from typing import Any

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.models.arms import Query
from luthierd.evaluator.scorers.consistency import (
    InjectionResistedScorer,
    ParaphraseConsistencyScorer,
    RepeatConsistencyScorer,
    canary_of,
    paraphrases_of,
)
from luthierd.evaluator.scorers.registry import metrics_of, spec_of
from support.evaluator_material import row, rows
from support.grading import judge_at
from support.judge_server import judge_server


def query(number: int) -> Query:
    given = row(number)
    return Query(arm=Arm.RAG, row=given, messages=(Message("user", "shot"), Message("assistant", "yes"), *given.prompt))


async def test_perturbed_questions_have_ids_of_their_own_and_only_the_last_question_changes() -> None:
    config = EvaluationConfig(repeat_count=2, repeat_temperature=0.5, seed=10)
    queries = [query(0), query(1)]
    repeats = await RepeatConsistencyScorer(config).perturbed(queries)
    injections = await InjectionResistedScorer().perturbed(queries)
    with judge_server(lambda body: says_otherwise(body, "function_1(")) as server:
        async with judge_at(server.url, concurrency=1) as judge:
            paraphrases = await ParaphraseConsistencyScorer(judge).perturbed(queries)
    found = [*repeats, *injections, *paraphrases]
    assert len({one.row.id for one in found}) == len(found) == 7
    assert [(one.temperature, one.seed) for one in repeats[:2]] == [(0.5, 11), (0.5, 12)]
    assert injections[0].messages[-1].content.endswith(f"{canary_of('holdout-0')} only.")
    assert paraphrases[0].messages[-1].content == "In other words?"
    assert all(one.messages[:2] == query(0).messages[:2] for one in found)


def says_otherwise(body: dict[str, Any], known: str) -> str:
    """A paraphrase of the question that holds `known`, nothing readable for another one."""
    return json.dumps({"text": "In other words?"}) if known in body["messages"][-1]["content"] else "no"


async def test_no_metric_asks_by_default() -> None:
    for metric in metrics_of(EvaluationConfig()):
        assert not spec_of(metric).needs.asks


async def test_a_question_that_the_judge_cannot_reword_is_left_out() -> None:
    answers = iter([json.dumps({"text": "Otherwise said"}), "no"])
    with judge_server(lambda body: next(answers)) as house:
        async with judge_at(house.url, concurrency=1) as judge:
            found = await paraphrases_of(rows(2), judge)
    assert found == {"holdout-0": "Otherwise said"}


async def test_the_same_words_for_different_questions_are_no_paraphrase() -> None:
    """SmolLM2-135M said "The same in other words." of every question."""
    answers = iter(json.dumps({"text": said}) for said in ("In other words.", "Otherwise said", "In other words."))
    with judge_server(lambda body: next(answers)) as house:
        async with judge_at(house.url, concurrency=1) as judge:
            found = await paraphrases_of(rows(3), judge)
    assert found == {"holdout-1": "Otherwise said"}
