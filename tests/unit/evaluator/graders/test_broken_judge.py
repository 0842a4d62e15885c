"""A broken judge changes coverage, never the direction of a verdict: a real server that fails in each way, for a share
of its questions, under a better, an equal and a worse adapter.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import pytest
from luthierd.evaluator.decisions.gate import GateOutcome, judge
from luthierd.evaluator.decisions.gate_policy import GateCondition, GatePolicy
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metric_details import Criterion
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import TaskSpec
from luthierd.evaluator.domain.scores import MetricResults, Scored
from luthierd.evaluator.scorers.judged import RubricScorer
from luthierd.evaluator.scorers.scorer import Passages
from luthierd.evaluator.scorers.scoring import Scoring
from support.evaluator_material import answer, rows
from support.grading import judge_at, ragas_scorer
from support.judge_server import CUT_BODY, HANG_UP, SILENCE, judge_server

ROWS = rows(40)  # 14 groups
BROKEN = {
    "NaN": '{"helpful": NaN}',
    "refusal": "I'm sorry, but I cannot grade this.",
    "cut JSON": '{"helpful": 4',
    "cut body": CUT_BODY,
    "hang up": HANG_UP,
    "slow": SILENCE,
    "error": 503,
}
POLICY = GatePolicy((GateCondition(metric=Metric("rubric"), reference=Arm.BASE),))


def grades(of_base: int, of_adapter: int, *, broken: Any, share: float, victim: str, different: int = 20) -> Any:
    """A judge that grades by the arm's word and fails on the first rows of `victim` (`all`: of both arms).

    Only the first `different` rows differ between the arms: losing these must not turn the verdict round.
    """

    def script(body: dict[str, Any]) -> Any:
        said = re.search(r"<answer>\n(\w+) (\d+)\n", body["messages"][0]["content"])
        assert said is not None
        arm, number = said.group(1), int(said.group(2))
        if victim in (arm, "all") and number < share * len(ROWS):
            return broken
        return json.dumps({"helpful": of_adapter if arm == "adapter" and number < different else of_base})

    return script


async def scored(script: Any, *, timeout_s: float = 5.0) -> Scored:
    arms = {
        arm: {row.id: answer(arm, row.id, f"{arm.value} {number}") for number, row in enumerate(ROWS)}
        for arm in (Arm.BASE, Arm.ADAPTER)
    }
    with judge_server(script) as house:
        async with judge_at(house.url, timeout_s=timeout_s, concurrency=8) as the_judge:
            scorer = RubricScorer(the_judge, [Criterion("helpful", "Does it help?")])
            scoring = Scoring(task=TaskSpec(), scorers=[scorer], n_resamples=400, judge=the_judge)
            return await scoring.score(ROWS, arms)


def outcome(figures: MetricResults) -> GateOutcome:
    return judge(POLICY, figures).outcome


WHOLE: dict[tuple[int, int], GateOutcome] = {}  # the verdict of a judge that never fails
WRONG = {(3, 5): GateOutcome.NO_GO, (3, 1): GateOutcome.GO}


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "slow"])
@pytest.mark.parametrize("grade", [(3, 5), (3, 1)])
async def test_no_way_of_failing_turns_a_verdict_round(name: str, grade: tuple[int, int]) -> None:
    found = await scored(grades(*grade, broken=BROKEN[name], share=0.3, victim="adapter"))
    measured = found.overall.metric(Arm.ADAPTER, Metric("rubric"))
    assert measured is not None
    assert measured.coverage < 0.75
    assert outcome(found.overall) is GateOutcome.INCONCLUSIVE


async def test_a_slow_judge_lowers_the_coverage_by_what_it_missed() -> None:
    found = await scored(grades(3, 5, broken=SILENCE, share=0.05, victim="all", different=40), timeout_s=3.0)
    measured = found.overall.metric(Arm.ADAPTER, Metric("rubric"))
    assert measured is not None
    assert measured.coverage == pytest.approx(0.95)
    assert found.metric_details.failures["adapter"]["rubric"] == {"JUDGE_SLOW": 2}
    assert found.metric_details.judge is not None
    assert found.metric_details.judge.failure_counts == {"JUDGE_SLOW": 4}
    assert outcome(found.overall) is GateOutcome.GO


async def test_a_dead_judge_gives_no_verdict_at_all() -> None:
    found = await scored(grades(3, 5, broken=503, share=1.0, victim="all"))
    measured = found.overall.metric(Arm.ADAPTER, Metric("rubric"))
    assert measured is not None
    assert measured.coverage == 0.0
    assert outcome(found.overall) is GateOutcome.INCONCLUSIVE


@pytest.mark.parametrize("victim", ["adapter", "base", "all"])
@pytest.mark.parametrize("grade", [(3, 5), (3, 3), (3, 1)])
async def test_failures_above_the_least_coverage_do_not_turn_it_either(grade: tuple[int, int], victim: str) -> None:
    if grade not in WHOLE:
        WHOLE[grade] = outcome((await scored(grades(*grade, broken="", share=0.0, victim=victim))).overall)
    whole = WHOLE[grade]
    partial = outcome((await scored(grades(*grade, broken="no", share=0.05, victim=victim))).overall)
    assert partial in (whole, GateOutcome.INCONCLUSIVE)
    assert partial is not WRONG.get(grade)


def faithful(body: dict[str, Any], *, yes: int = 1) -> Any:
    """RAGAS's two questions: statements, then a verdict on each; the last statement is not supported."""
    prompt = body["messages"][0]["content"]
    if '"verdict"' in prompt:
        said = [{"statement": f"s{n}", "reason": "r", "verdict": yes if n < 3 else 0} for n in range(4)]
        return json.dumps({"statements": said})
    return json.dumps({"statements": [f"s{n}" for n in range(4)]})


@pytest.mark.parametrize(
    ("script", "value", "failure"),
    [
        (faithful, 0.75, None),
        # RAGAS by itself takes either of these for a yes.
        (functools.partial(faithful, yes=-1), None, "JUDGE_UNREADABLE"),
        (functools.partial(faithful, yes=7), None, "JUDGE_UNREADABLE"),
        (lambda body: json.dumps({"statements": []}), None, "JUDGE_FOUND_NO_STATEMENT"),
        (lambda body: "NaN", None, "JUDGE_UNREADABLE"),
        (lambda body: CUT_BODY, None, "JUDGE_ENDPOINT_UNREADABLE"),
    ],
)
async def test_ragas_s_faithfulness_asks_our_judge_and_names_its_failures(
    script: Any, value: float | None, failure: str | None
) -> None:
    arms = {Arm.RAG: {ROWS[0].id: answer(Arm.RAG, ROWS[0].id, "Four statements.")}}
    with judge_server(script) as house:
        async with judge_at(house.url, max_tokens=400) as the_judge:
            scorer = ragas_scorer(Metric("groundedness"), the_judge, Passages())
            found = await Scoring(task=TaskSpec(), scorers=[scorer], n_resamples=100, judge=the_judge).score(
                ROWS[:1], arms
            )
    assert [(one.value, one.failure) for one in found.rows[0].scores] == [(value, failure)]


async def test_an_arm_that_was_shown_nothing_has_no_context_figure() -> None:
    arms = {Arm.BASE: {ROWS[0].id: answer(Arm.BASE, ROWS[0].id, "Text.")}}
    with judge_server(faithful) as house:
        async with judge_at(house.url) as the_judge:
            scorer = ragas_scorer(Metric("faithfulness"), the_judge, Passages())
            found = await Scoring(task=TaskSpec(), scorers=[scorer], n_resamples=100).score(ROWS[:1], arms)
    assert found.overall.metrics == []
    assert house.asked == []
