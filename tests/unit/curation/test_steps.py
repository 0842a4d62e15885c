"""Cleaning, duplicates and contradictions."""

from __future__ import annotations

import dataclasses
import random

import pytest
from luthierd.curation.domain import Message, Role, Row
from luthierd.curation.recipe import CleanRules
from luthierd.curation.stages.clean import clean, clean_text
from luthierd.curation.stages.contradictions import find_contradictions
from luthierd.curation.stages.exact_duplicates import drop_exact_duplicates
from luthierd.curation.stages.near_duplicates import NearDuplicates, band_count, drop_near_duplicates, row_shingles
from luthierd.text import jaccard
from support.curation_material import row


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("  one line \t", "one line"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\x00b\x07c\x1bd", "abcd"),
        ("a\u200bb\ufeffc\u202ed", "abcd"),
        ("a\r\nb\rc\u2028d\x85e", "a\nb\nc\nd\ne"),
        ("a  \nb\t\n", "a\nb"),
        ("a\n\n\n\n\nb", "a\n\nb"),
        ("    x = 1\n    y = 2\n", "    x = 1\n    y = 2"),
        ("می\u200cخواهم 👩\u200d💻", "می\u200cخواهم 👩\u200d💻"),
        ("\u200b\x00\n", ""),
    ],
)
def test_text_is_normalised_and_keeps_its_meaning(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned
    assert clean_text(cleaned) == cleaned


def test_rows_out_of_bounds_are_dropped_with_their_reason() -> None:
    rules = CleanRules(min_completion_characters=3, max_row_characters=60)
    rows = [
        row(1, prompt="fine", completion="good"),
        row(2, prompt="tidy\u200b", completion="good"),
        row(3, prompt="\u200b", completion="good"),
        row(4, prompt="short", completion="ok"),
        row(5, prompt="x" * 60, completion="good"),
    ]
    kept, changes = clean(rows, rules)
    assert [one.id for one in kept] == ["row-1", "row-2"]
    assert [(change.row_id, change.is_dropped, change.reason) for change in changes] == [
        ("row-2", False, "text_normalised"),
        ("row-3", True, "message_empty"),
        ("row-4", True, "completion_too_short"),
        ("row-5", True, "row_too_long"),
    ]


def test_of_exact_duplicates_the_first_stays_and_another_label_is_told() -> None:
    first = row(1, label="a")
    twins = [dataclasses.replace(first, id="same"), dataclasses.replace(first, id="other", label="b")]
    kept, changes = drop_exact_duplicates([first, row(2), *twins])
    assert [one.id for one in kept] == ["row-1", "row-2"]
    assert [(c.row_id, c.reason, c.other_row_id) for c in changes] == [
        ("same", "same_messages", "row-1"),
        ("other", "same_messages_other_label", "row-1"),
    ]


def test_one_prompt_with_two_answers_is_a_contradiction() -> None:
    rows = [row(1, prompt="p", completion="yes"), row(2), row(3, prompt="p", completion="no"), row(4, prompt="q")]
    assert [[one.id for one in same] for same in find_contradictions(rows)] == [["row-1", "row-3"]]
    assert find_contradictions([row(1, prompt="p", completion="x"), row(2, prompt="p", completion="x")]) == []


def words(*numbers: int) -> str:
    return " ".join(f"word{number}" for number in numbers)


def near(rows: list[Row], threshold: float = 0.85) -> NearDuplicates:
    return drop_near_duplicates(rows, threshold, progress=lambda count: None)


def test_near_duplicates_keep_the_first_and_tell_of_another_answer() -> None:
    text = words(*range(100))
    result = near(
        [
            row(1, prompt=text, completion="yes"),
            row(2),
            row(3, prompt=text + " more", completion="yes"),
            row(4, prompt=text, completion="no"),
        ]
    )
    assert [one.id for one in result.rows] == ["row-1", "row-2"]
    assert [(c.row_id, c.reason, c.other_row_id) for c in result.changes] == [
        ("row-3", "near_duplicate", "row-1"),
        ("row-4", "near_duplicate_other_answer", "row-1"),
    ]


def test_rows_are_a_cluster_also_through_a_dropped_row() -> None:
    a, b, c = (row(i, prompt=words(*range(6 * i, 6 * i + 100)), completion="x") for i in range(3))
    assert jaccard(row_shingles(a), row_shingles(c)) < 0.85
    for order in ([a, b, c], [a, c, b]):
        result = near(order)
        assert {one.id for one in result.rows} == {"row-0", "row-2"}
        assert result.cluster_by_id == {"row-0": "row-0", "row-2": "row-0"}


def test_rows_with_different_system_messages_are_different_tasks() -> None:
    def task(number: int, system: str) -> Row:
        plain = row(number, prompt=words(*range(50)), completion="x")
        return dataclasses.replace(plain, messages=(Message(Role.SYSTEM, system), *plain.messages))

    assert len(near([task(1, "translate"), task(2, "summarise"), task(3, "translate")]).rows) == 2


def test_short_and_wordless_rows_are_compared_too() -> None:
    rows = [
        row(1, prompt="hi", completion="ho"),
        row(2, prompt="Hi!", completion="ho"),
        row(3, prompt="?", completion="!"),
    ]
    assert [one.id for one in near(rows).rows] == ["row-1", "row-3"]


def test_every_pair_over_the_threshold_is_found_and_none_below_it() -> None:
    rng = random.Random(5)
    rows = []
    for family in range(60):
        base = [f"f{family}w{i}" for i in range(80)]
        for member in range(4):
            text = [word if rng.random() > 0.02 * member else f"m{rng.randrange(10**9)}" for word in base]
            rows.append(row(len(rows), prompt=" ".join(text), completion="same"))
    sets = [row_shingles(one) for one in rows]
    kept: list[int] = []
    for position in range(len(rows)):  # the rule, in quadratic time
        if all(jaccard(sets[position], sets[other]) < 0.8 for other in kept):
            kept.append(position)
    assert [one.id for one in near(rows, 0.8).rows] == [rows[position].id for position in kept]
    assert 60 < len(kept) < 240


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.85, 0.95])
def test_enough_bands_are_taken_to_propose_a_pair_at_the_threshold(threshold: float) -> None:
    bands = band_count(threshold)
    assert 128 % bands == 0
    assert 1 - (1 - threshold ** (128 / bands)) ** bands >= 0.999
