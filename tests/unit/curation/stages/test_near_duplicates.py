"""Near duplicates."""

from __future__ import annotations

import dataclasses
import random

import pytest
from luthierd.curation.domain import Message, Role, Row
from luthierd.curation.stages.near_duplicates import NearDuplicates, NearDuplicatesSettings, band_count, row_shingles
from luthierd.curation.stages.stage import Applied
from luthierd.text import jaccard
from support.curation_material import apply, row


def words(*numbers: int) -> str:
    return " ".join(f"word{number}" for number in numbers)


def near(rows: list[Row], threshold: float = 0.85) -> Applied:
    return apply(NearDuplicates(NearDuplicatesSettings(threshold=threshold)), rows)


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
    assert [(c.row_id, c.reason, c.kept_id) for c in result.changes] == [
        ("row-3", "near_duplicate", "row-1"),
        ("row-4", "near_duplicate_other_answer", "row-1"),
    ]


def test_rows_are_a_cluster_also_through_a_dropped_row() -> None:
    a, b, c = (row(i, prompt=words(*range(6 * i, 6 * i + 100)), completion="x") for i in range(3))
    assert jaccard(row_shingles(a), row_shingles(c)) < 0.85
    for order in ([a, b, c], [a, c, b]):
        result = near(order)
        assert {one.id: one.cluster for one in result.rows} == {"row-0": "row-0", "row-2": "row-0"}


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
