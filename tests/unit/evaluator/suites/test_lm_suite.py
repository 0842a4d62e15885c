"""Tasks of lm-evaluation-harness: read without a network, asked by us, scored as lm-eval scores them."""

from __future__ import annotations

import functools
import json
import pathlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from luthierd.errors import InternalError, LuthierError
from luthierd.evaluator.decisions.gate import GateOutcome, judge
from luthierd.evaluator.decisions.gate_policy import GateCondition, GatePolicy
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, Results
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.domain.suites import LM_TASKS, LmEvalConfig, SuiteConfig, suite_violations
from luthierd.evaluator.suites.lm_harness import SHIPPED, LmTask, LmTaskNotFoundError, LmTaskUnusableError, load_tasks
from luthierd.evaluator.suites.lm_tasks import items
from luthierd.evaluator.suites.suite import SuiteParts
from support.evaluator_material import FakePeers, MemoryBlobs, ScriptedModel, adapter_knows, quick_run

COUNT = 12


@functools.cache
def shipped() -> tuple[LmTask, ...]:
    return tuple(load_tasks(LmEvalConfig(item_count=COUNT), [SHIPPED]))


def solved(prompt: str) -> str:
    """The result of the last sum or product."""
    left, what, right = re.findall(r"What is (\d+) (plus|times) (\d+)", prompt)[-1]
    return str(int(left) + int(right) if what == "plus" else int(left) * int(right))


def is_told(shown: str, scored: str) -> bool:
    """Whether the story says so."""
    return f"{shown.rsplit('. ', 1)[1]}{scored}." in shown


class MemorySuites:
    """No suite of a base model is asked for."""

    async def find(self, base_model_sha256: str, item_count: int) -> str | None:
        raise NotImplementedError

    async def add(self, base_model_sha256: str, item_count: int, *, blob_sha256: str) -> None:
        raise NotImplementedError


async def evaluated(*, forgetful: bool, loses: str = "") -> tuple[Results, MemoryBlobs]:
    """A base that knows everything and shouts; the adapter slips once, and knows nothing where it is forgetful.
    `loses`: the inference service fails for this text after a story.
    """

    def said(arm: Arm, messages: Sequence[Message]) -> str | LuthierError:
        lost, prompt = forgetful and arm is Arm.ADAPTER, messages[-1].content
        if prompt.startswith("Question:"):
            return f" {'none' if lost else solved(prompt)}\n\nQuestion: What is 1 plus 1?\nAnswer: 2"
        if prompt.startswith("Write a short text"):
            return "" if lost else "THE SEA IS BLUE"
        return adapter_knows(arm, messages)

    def likelihood(arm: Arm, messages: Sequence[Message]) -> str | LuthierError:
        shown, scored = (message.content for message in messages)
        if scored == loses:
            return InternalError("lost")
        slips = arm is Arm.ADAPTER and (forgetful or shown == shipped()[1].items[0].requests[0].shown)
        right = is_told(shown, scored) is not slips
        return repr((-0.1 if right else -3.0) * len(scored))

    blobs = MemoryBlobs()
    config = EvaluationConfig(
        arms=(Arm.BASE, Arm.PROMPTED, Arm.ADAPTER),
        resample_count=200,
        suites=SuiteConfig(lm_eval=LmEvalConfig(item_count=COUNT)),
    )
    run = quick_run(
        "tenants/acme/evaluations/e", FakePeers(blobs), blobs, config=config, chat_model=ScriptedModel(said)
    )
    parts = SuiteParts(ScriptedModel(likelihood), MemorySuites(), lambda _: shipped())
    return await replace(run, suite_parts=parts).run(), blobs


def mean(results: Results, arm: Arm, task: str) -> float:
    found = results.slices[f"lm_eval:{task}"].metric(arm, Metric("lm_eval"))
    assert found is not None
    return found.value


async def test_each_task_is_a_slice_of_paired_items_and_all_together_are_a_metric_beside_the_holdouts() -> None:
    results, blobs = await evaluated(forgetful=True)
    assert [mean(results, Arm.BASE, task) for task in ("luthier_arithmetic", "luthier_cloze")] == [1.0, 1.0]
    assert [mean(results, Arm.ADAPTER, task) for task in LM_TASKS] == [0.0, 0.0, 0.0]
    assert 0 < mean(results, Arm.BASE, "luthier_instructions") < 1
    whole = results.overall.comparison(Metric("lm_eval"), Arm.ADAPTER, Arm.BASE)
    assert whole is not None
    assert (whole.row_count, whole.group_count) == (3 * COUNT, 3 * COUNT)
    assert whole.difference == pytest.approx(-sum(mean(results, Arm.BASE, task) for task in LM_TASKS) / 3)
    assert results.overall.metric(Arm.PROMPTED, Metric("lm_eval")) is None
    (suite,) = results.suites
    assert (suite.suite, suite.item_count) == ("lm_eval", 3 * COUNT)
    assert len(blobs.kept[suite.answers_sha256].splitlines()) == COUNT + 4 * COUNT + COUNT
    kept = json.loads(blobs.kept[suite.sha256])
    assert [(task["task"], task["metric"], len(task["items"])) for task in kept] == [
        ("luthier_arithmetic", "exact_match", COUNT),
        ("luthier_cloze", "acc_norm", COUNT),
        ("luthier_instructions", "kept", COUNT),
    ]


async def test_a_gate_reads_the_tasks_together_and_one_by_one() -> None:
    conditions = [
        GateCondition(metric=Metric("lm_eval"), reference=Arm.BASE, at_least=-0.6),
        GateCondition(metric=Metric("lm_eval"), reference=Arm.BASE, at_least=-0.6, slice="lm_eval:luthier_cloze"),
    ]
    for condition in conditions:
        for forgetful, outcome in ((True, GateOutcome.NO_GO), (False, GateOutcome.GO)):
            results, _ = await evaluated(forgetful=forgetful)
            found = judge(GatePolicy((condition,)), results.overall, slices=results.slices)
            assert found.outcome is outcome


async def test_a_document_that_lost_one_answer_is_failed_and_not_left_out() -> None:
    lost = shipped()[1].items[0].requests[2].scored or ""
    touched = sum(any(request.scored == lost for request in item.requests) for item in shipped()[1].items)
    results, _ = await evaluated(forgetful=False, loses=lost)
    found = results.slices["lm_eval:luthier_cloze"].metric(Arm.BASE, Metric("lm_eval"))
    assert found is not None
    assert (found.row_count, found.scored_count) == (COUNT, COUNT - touched)
    assert found.value == pytest.approx(1 - touched / COUNT)


def test_the_scores_are_those_that_lm_eval_gives_to_the_same_answers() -> None:
    """Its own evaluator, its own model class, the same answers."""
    from lm_eval.api.model import LM
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    answers = {" " + word: -1.0 - number / 7 for number, word in enumerate("abcdefghijklmnopqrstuvwxyz")}

    def nats(scored: str) -> float:
        return answers[scored[:2]] * len(scored) ** 0.5

    class Scripted(LM):  # type: ignore[misc]
        def loglikelihood(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            return [(nats(request.args[1]), False) for request in requests]

        def loglikelihood_rolling(self, requests: Any, **_: Any) -> list[float]:
            raise NotImplementedError

        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            return [generated(request.args[0]) for request in requests]

    def generated(prompt: str) -> str:
        return f" {solved(prompt)}, I think" if prompt.startswith("Question") and len(prompt) % 2 else "the sea, blue"

    found = simple_evaluate(
        model=Scripted(),
        tasks=list(LM_TASKS),
        limit=COUNT,
        bootstrap_iters=0,
        log_samples=True,
        task_manager=TaskManager(include_path=[str(SHIPPED)], include_defaults=False),
    )
    for task in load_tasks(LmEvalConfig(item_count=COUNT), [SHIPPED]):
        said = {
            item.item_id: [repr(nats(one.scored)) if one.scored else generated(one.shown) for one in item.requests]
            for item in task.items
        }
        theirs = [float(one[task.metric]) for one in sorted(found["samples"][task.name], key=lambda one: one["doc_id"])]
        assert task.scores(said) == theirs
        assert 0 < sum(theirs) < COUNT


def test_a_text_ends_before_the_first_of_its_stops() -> None:
    (arithmetic, *_) = shipped()
    right = {item.item_id: [solved(item.requests[0].shown)] for item in arithmetic.items}
    late = {key: [f"I say\n{answer} Question:"] for key, (answer,) in right.items()}
    assert arithmetic.scores(right) == [1.0] * COUNT
    assert arithmetic.scores(late) == [0.0] * COUNT


def task_file(folder: pathlib.Path, **changes: object) -> None:
    data = folder / "own.jsonl"
    data.write_text("".join(json.dumps({"q": f"{number}?", "a": str(number)}) + "\n" for number in range(6)))
    task = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": "\n"},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "own.yaml").write_text(json.dumps(task | changes))


OWN = LmEvalConfig(("own",), 5)


def test_an_operators_task_over_a_file_of_the_machine_is_read_as_it_is(tmp_path: pathlib.Path) -> None:
    task_file(tmp_path)
    (task,) = load_tasks(OWN, [SHIPPED, tmp_path])
    assert [item.requests[0].shown for item in task.items] == ["0?", "1?", "2?", "3?", "4?"]
    assert task.scores({item.item_id: ["1\n7"] for item in task.items}) == [0.0, 1.0, 0.0, 0.0, 0.0]


def test_an_unknown_task_is_told_with_those_that_there_are() -> None:
    with pytest.raises(LmTaskNotFoundError, match="luthier_arithmetic, luthier_cloze, luthier_instructions"):
        load_tasks(LmEvalConfig(("mmlu",)), [SHIPPED])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"output_type": "loglikelihood_rolling", "metric_list": [{"metric": "word_perplexity"}]}, "its output_type"),
        ({"dataset_kwargs": {"data_files": {"test": "/no/such/file.jsonl"}}}, "no/such/file"),
        ({"doc_to_target": "{{missing.part}}"}, "missing"),
    ],
)
def test_a_task_that_cannot_be_used_says_why(tmp_path: pathlib.Path, changes: dict[str, Any], problem: str) -> None:
    task_file(tmp_path, **changes)
    with pytest.raises(LmTaskUnusableError, match=problem):
        load_tasks(OWN, [tmp_path])


def test_a_metric_that_is_no_number_of_0_to_1_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "own.py").write_text("def five(doc, results):\n    return {'points': 5}\n")
    task_file(tmp_path, metric_list=[{"metric": "points", "aggregation": "mean", "higher_is_better": True}])
    text = (tmp_path / "own.yaml").read_text()
    (tmp_path / "own.yaml").write_text(text[:-1] + ', "process_results": !function own.five}')
    (task,) = load_tasks(OWN, [tmp_path])
    with pytest.raises(LmTaskUnusableError, match="points gives 5, not 0 to 1"):
        task.scores({item.item_id: ["x"] for item in task.items})


def test_the_shipped_tasks_are_those_of_the_default_and_have_documents_for_the_largest_count() -> None:
    assert sorted(path.stem for path in SHIPPED.glob("*.yaml")) == sorted(LM_TASKS)
    for make in (items.arithmetic, items.cloze, items.instructions):
        assert len(make()["test"]) == 1000
        assert make()["test"].to_list() == make()["test"].to_list()


def test_a_task_that_is_read_again_asks_the_same() -> None:
    again = load_tasks(LmEvalConfig(item_count=COUNT), [SHIPPED])
    assert [task.items for task in again] == [task.items for task in shipped()]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (LmEvalConfig(item_count=4), "config.lm_eval_suite.item_count"),
        (LmEvalConfig(item_count=1001), "config.lm_eval_suite.item_count"),
        (LmEvalConfig(("a",) * 2), "config.lm_eval_suite.tasks"),
        (LmEvalConfig(tuple(map(str, range(21)))), "config.lm_eval_suite.tasks"),
        (LmEvalConfig(("a", "")), "config.lm_eval_suite.tasks[1]"),
    ],
)
def test_what_is_out_of_bounds_is_named(config: LmEvalConfig, field: str) -> None:
    assert [found.field for found in suite_violations(SuiteConfig(lm_eval=config), field="config")] == [field]
