"""RAGAS's metrics through our judge: a real server answers each of their questions, the figures follow by hand."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import TaskSpec
from luthierd.evaluator.graders.judge_models import FORM
from luthierd.evaluator.scorers.scorer import Passages
from luthierd.evaluator.scorers.scoring import Scoring
from support.evaluator_material import answer, rows
from support.grading import judge_at, ragas_scorer
from support.judge_server import judge_server

(ROW,) = rows(1)
SHOWN = rows(2, split="train")
SAID = "It sums. It sorts. It sleeps."
CLAIMS = {"It sums.": 1, "It sorts.": 1, "It sleeps.": 0}
"""Of the answer; the reference makes one of them, and no other that the answer lacks."""


def cost_of(body: dict[str, Any]) -> tuple[str, set[str]]:
    """What a question says, and the fields of the form that it asks for."""
    said, form = body["messages"][0]["content"].rsplit(FORM, 1)
    return said, set(json.loads(form)["properties"])


def judge_of(body: dict[str, Any]) -> str:
    """Finds the second passage useful, half of the reference in them, and two of the answer's three claims right."""
    said, fields = cost_of(body)
    if fields == {"reason", "verdict"}:
        return json.dumps({"reason": "r", "verdict": int("train_function_1" in said)})
    if fields == {"classifications"}:
        return json.dumps(
            {"classifications": [{"statement": f"s{n}", "reason": "r", "attributed": n} for n in range(2)]}
        )
    if fields == {"question", "noncommittal"}:
        return json.dumps({"question": ROW.question, "noncommittal": 0})
    if fields == {"claims"}:
        claims = list(CLAIMS) if SAID in said.rsplit("{", 1)[1] else ["It sums."]
        return json.dumps({"claims": claims})
    assert fields == {"statements"}
    checked = said.rsplit("{", 1)[1]
    return json.dumps(
        {
            "statements": [
                {"statement": claim, "reason": "r", "verdict": right}
                for claim, right in CLAIMS.items()
                if claim in checked.rsplit("[", 1)[1]
            ]
        }
    )


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (Metric("context_precision"), 0.5),  # the only useful passage is the second one
        (Metric("context_recall"), 0.5),
        (Metric("answer_relevancy"), 1.0),  # the question that the answer suggests is the one that was asked
        (Metric("factual_correctness"), 0.8),  # two right, one wrong, none missing: F1 of 2/3 and 1
    ],
)
async def test_ragas_s_metrics_get_their_figures_from_our_judge(metric: Metric, value: float) -> None:
    shown = dataclasses.replace(answer(Arm.RAG, ROW.id, SAID), shown_row_ids=tuple(row.id for row in SHOWN))
    passages = Passages({row.id: row for row in SHOWN})
    with judge_server(judge_of) as house:
        async with judge_at(house.url, max_tokens=400) as the_judge:
            scorer = ragas_scorer(metric, the_judge, passages)
            scoring = Scoring(
                task=TaskSpec(), scorers=[scorer], n_resamples=100, judge=the_judge, passages=passages.by_id
            )
            found = await scoring.score([ROW], {Arm.RAG: {ROW.id: shown}})
    (score,) = found.rows[0].scores
    assert score.failure is None
    assert score.value == pytest.approx(value, abs=1e-6)


async def test_an_evasive_answer_is_not_relevant() -> None:
    def evasive(body: dict[str, Any]) -> str:
        return json.dumps({"question": ROW.question, "noncommittal": 1})

    with judge_server(evasive) as house:
        async with judge_at(house.url, max_tokens=400) as the_judge:
            scorer = ragas_scorer(Metric("answer_relevancy"), the_judge, Passages())
            given = {Arm.BASE: {ROW.id: answer(Arm.BASE, ROW.id, "I do not know.")}}
            found = await Scoring(task=TaskSpec(), scorers=[scorer], n_resamples=100, judge=the_judge).score(
                [ROW], given
            )
    assert [one.value for one in found.rows[0].scores] == [0.0]
