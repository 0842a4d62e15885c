"""The retrieval index, its digest and the refusal of leakage."""

from __future__ import annotations

import dataclasses

import pytest
from evaluator_material import HashingEmbedder, row, rows
from luthierd.evaluator.retrieval import LeakageError, build_index
from luthierd.evaluator.shots import fixed_shots, shorten, shot_turns


def test_the_nearest_row_of_a_question_is_itself_first() -> None:
    embedder = HashingEmbedder()
    train = rows(30, split="train")
    index = build_index(train, rows(5), embedder)
    found = index.nearest(embedder.embed([train[7].question]), count=3)
    assert found[0][0].id == "train-7"
    assert len(found[0]) == 3


def test_asking_for_more_rows_than_there_are_gives_all() -> None:
    embedder = HashingEmbedder()
    index = build_index(rows(2, split="train"), rows(1), embedder)
    assert len(index.nearest(embedder.embed(["x"]), count=5)[0]) == 2


def test_the_digest_changes_with_the_rows_and_the_embedder_only() -> None:
    embedder = HashingEmbedder()
    train = rows(10, split="train")
    assert build_index(train, [], embedder).sha256 == build_index(train, rows(3), HashingEmbedder()).sha256
    assert build_index(train, [], embedder).sha256 != build_index(train[:9], [], embedder).sha256
    other = HashingEmbedder()
    other.digest = "1" * 64
    assert build_index(train, [], embedder).sha256 != build_index(train, [], other).sha256


def test_a_holdout_id_among_the_training_rows_is_refused_before_anything_is_embedded() -> None:
    embedder = HashingEmbedder()
    train = rows(5, split="train")
    leaked = dataclasses.replace(row(99), id="train-3")
    with pytest.raises(LeakageError) as caught:
        build_index(train, [leaked], embedder)
    assert caught.value.metadata == {"row": "train-3", "train_row": "train-3"}
    assert embedder.batches == []


def test_a_holdout_text_among_the_training_rows_is_refused_whatever_its_spaces_and_case() -> None:
    train = rows(5, split="train")
    turn = dataclasses.replace(train[2].prompt[0], content=train[2].question.upper().replace(" ", "  "))
    leaked = dataclasses.replace(train[2], id="other", prompt=(turn,))
    with pytest.raises(LeakageError) as caught:
        build_index(train, [leaked], HashingEmbedder())
    assert caught.value.metadata["train_row"] == "train-2"


def test_the_index_is_a_blob_with_its_row_ids() -> None:
    index = build_index(rows(3, split="train"), [], HashingEmbedder())
    header, _, body = index.serialise().partition(b"\n")
    assert b"train-2" in header
    assert len(body) > 3 * 64 * 4


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
