"""Examples in a prompt."""

from __future__ import annotations

from luthierd.evaluator.models.arms import fixed_shots, shorten, shot_turns
from support.evaluator_material import row, rows


def test_fixed_shots_come_from_different_groups_and_do_not_change() -> None:
    train = rows(30, split="train")
    shots = fixed_shots(train, 5, seed=1)
    assert len({shot.group for shot in shots}) == 5
    assert shots == fixed_shots(train, 5, seed=1)
    assert shots != fixed_shots(train, 5, seed=2)


def test_with_too_few_groups_fixed_shots_share_them() -> None:
    assert len(fixed_shots(rows(6, split="train"), 4, seed=0)) == 4


def test_a_shot_s_question_is_cut_at_a_word_and_its_answer_is_whole() -> None:
    train = [row(1, split="train")]
    user, assistant = shot_turns(train, max_characters=40)
    assert len(user.content) <= 44
    assert user.content.endswith(" ...")
    assert assistant.content == train[0].reference
    assert shorten("short", 40) == "short"
