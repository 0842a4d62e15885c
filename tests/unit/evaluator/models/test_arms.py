"""What each arm says to the model."""

from __future__ import annotations

import itertools

import pytest
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Message, Row
from luthierd.evaluator.models.arms import ArmPlan, in_turns
from support.evaluator_material import row, rows

TRAIN = rows(9, split="train")
QUESTION = row(0)
PLAN = ArmPlan(instruction="Do it.", fixed=TRAIN[:3], retrieved={QUESTION.id: TRAIN[5:7]})


def roles(messages: tuple[Message, ...]) -> list[str]:
    return [message.role for message in messages]


def test_base_and_adapter_ask_the_row_s_own_prompt() -> None:
    for arm in (Arm.BASE, Arm.ADAPTER):
        query = PLAN.query(arm, QUESTION)
        assert query.messages == QUESTION.prompt
        assert query.shown_row_ids == ()


def test_prompted_has_the_instruction_and_the_fixed_examples() -> None:
    query = PLAN.query(Arm.PROMPTED, QUESTION)
    assert query.messages[0] == Message("system", "Do it.")
    assert roles(query.messages) == ["system", *["user", "assistant"] * 3, "user"]
    assert query.messages[2].content == TRAIN[0].reference
    assert query.shown_row_ids == ("train-0", "train-1", "train-2")


def test_rag_puts_the_nearest_example_last() -> None:
    query = PLAN.query(Arm.RAG, QUESTION)
    assert query.shown_row_ids == ("train-6", "train-5")
    assert query.messages[0].role == "system"


def test_adapter_with_rag_has_examples_and_no_instruction() -> None:
    query = PLAN.query(Arm.ADAPTER_RAG, QUESTION)
    assert roles(query.messages) == ["user", "assistant", "user", "assistant", "user"]


def test_the_question_is_the_same_last_message_in_every_arm() -> None:
    assert {PLAN.query(arm, QUESTION).messages[-1] for arm in Arm} == {QUESTION.prompt[-1]}


def test_the_row_s_own_system_turn_follows_the_instruction() -> None:
    own = Row(
        id="r", group="g", label=None, prompt=(Message("system", "Be brief."), Message("user", "?")), reference="!"
    )
    assert PLAN.query(Arm.PROMPTED, own).messages[0] == Message("system", "Do it.\n\nBe brief.")
    assert PLAN.query(Arm.BASE, own).messages[0] == Message("system", "Be brief.")


def test_no_reference_of_the_holdout_is_ever_in_a_prompt() -> None:
    for arm in Arm:
        assert all(QUESTION.reference not in message.content for message in PLAN.query(arm, QUESTION).messages)


@pytest.mark.parametrize(("count", "turns"), [(1, 1), (20, 1), (50, 3), (200, 12)])
def test_arms_take_equal_turns_and_every_row_comes_once_an_arm_in_order(count: int, turns: int) -> None:
    arms = (Arm.BASE, Arm.ADAPTER)
    found = list(in_turns(arms, rows(count), window=4))
    for arm in arms:
        assert [row.id for asked, row in found if asked is arm] == [f"holdout-{number}" for number in range(count)]
    lengths = [len(list(turn)) for _, turn in itertools.groupby(found, key=lambda pair: pair[0])]
    assert len(lengths) == turns * len(arms)
    assert max(lengths) - min(lengths) <= 1
