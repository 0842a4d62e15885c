"""Choosing by log-probability, and the further questions of the metrics that need them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metric_details import TaskKind
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Answer, Message, TaskSpec
from luthierd.evaluator.models.generate import Reply
from luthierd.evaluator.models.multiple_choice import Likelihood, LikelihoodChooser, RowHasNoChoicesError, check_choices
from luthierd.evaluator.models.perturbations import perturbed_answers
from support.evaluator_material import FakePeers, MemoryBlobs, ScriptedModel, quick_run, row, rows, to_split

PREFERENCE = TaskSpec(kind=TaskKind.PREFERENCE)


class Likely:
    """(sum of log-probabilities, tokens) by text."""

    def __init__(self, known: dict[str, tuple[float, int]]) -> None:
        self._known = known

    async def likelihood(self, arm: Arm, messages: Sequence[Message], completion: str) -> Likelihood:
        total, count = self._known[completion]
        return Likelihood(total, count, 7, "generation-1")


async def chosen(known: dict[str, tuple[float, int]]) -> str:
    chooser = LikelihoodChooser(Likely(known), now=lambda: 0.0)
    return (await chooser.choose(Arm.BASE, [Message("user", "q")], list(known))).text


async def test_the_likeliest_token_by_token_is_chosen_not_the_shortest() -> None:
    assert await chosen({"no": (-2.0, 1), "yes, of course": (-4.0, 4)}) == "yes, of course"


async def test_equal_choices_go_by_the_alphabet_and_not_by_their_place() -> None:
    assert await chosen({"b": (-1.0, 1), "a": (-1.0, 1)}) == "a"
    assert await chosen({"a": (-1.0, 1), "b": (-1.0, 1)}) == "a"


@pytest.mark.parametrize("choices", [(), ("A",), ("A", "A"), ("B", "C")])
def test_a_row_that_cannot_be_answered_by_choosing_is_named(choices: tuple[str, ...]) -> None:
    with pytest.raises(RowHasNoChoicesError, match="holdout-0"):
        check_choices([dataclasses.replace(row(0), reference="A", choices=choices)], PREFERENCE)
    check_choices([dataclasses.replace(row(0), reference="A", choices=("B", "A"))], PREFERENCE)


def test_what_was_said_to_probes_is_found_by_row() -> None:
    def said(row_id: str) -> Answer:
        return Answer(
            arm=Arm.BASE,
            row_id=row_id,
            text=f"to {row_id}",
            start_s=0.0,
            ttft_s=0.1,
            total_s=0.2,
            prompt_tokens=1,
            completion_tokens=1,
            finish_reason="stop",
            loaded_adapter="base",
        )

    found = perturbed_answers([said("a"), said("a#probe:repeat-1"), said("b#probe:injection")])
    assert found == {
        (Arm.BASE, "a"): {"repeat-1": "to a#probe:repeat-1"},
        (Arm.BASE, "b"): {"injection": "to b#probe:injection"},
    }


async def test_a_multiple_choice_evaluation_writes_nothing_and_is_scored_by_its_choices() -> None:
    class Never(ScriptedModel):
        async def generate(self, *arguments: object, **more: object) -> Reply:
            raise AssertionError("a choice was asked to be written")

    class Knows:
        async def likelihood(self, arm: Arm, messages: Sequence[Message], completion: str) -> Likelihood:
            right = completion == ("A" if "function_0(" in messages[-1].content else "B")
            return Likelihood(-1.0 if right == arm.uses_adapter else -2.0, 1, 5, "g")

    blobs = MemoryBlobs()
    peers = FakePeers(blobs)
    asked = [dataclasses.replace(one, reference="B", choices=("A", "B"), label=None) for one in rows(12)]
    asked[0] = dataclasses.replace(asked[0], reference="A")
    peers.splits["holdout"] = blobs.put_bytes(to_split(asked)).sha256
    config = EvaluationConfig(arms=(Arm.BASE, Arm.ADAPTER), task=TaskKind.MULTIPLE_CHOICE, resample_count=200)
    run = quick_run("tenants/acme/evaluations/e", peers, blobs, config=config, chat_model=Never(lambda *_: ""))
    run = dataclasses.replace(run, generator=dataclasses.replace(run.generator, chooser=LikelihoodChooser(Knows())))
    results = await run.run()
    values = {one.arm: one.value for one in results.overall.metrics if one.metric == Metric("choice_accuracy")}
    assert values == {Arm.BASE: 0.0, Arm.ADAPTER: 1.0}
    assert [one.label for one in results.metric_details.labels["adapter"].classes] == ["A", "B"]
