"""The split."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from luthierd.curation.domain import Change, Row, Split
from luthierd.curation.stages.split import SplitRows, SplitSettings, SplitWouldBeEmptyError
from support.curation_material import apply, row


@dataclass(frozen=True)
class SplitResult:
    rows_by_split: dict[Split, list[Row]]
    changes: Sequence[Change]


def grouped(count: int, groups: int, seed: int = 1) -> list[Row]:
    rng = random.Random(seed)
    return [row(i, group=f"g{int(groups * rng.random() ** 2)}", label=f"l{rng.randrange(4)}") for i in range(count)]


def split(rows: list[Row], clusters: dict[str, str] | None = None, **settings: Any) -> SplitResult:
    clustered = [dataclasses.replace(one, cluster=(clusters or {}).get(one.id)) for one in rows]
    applied = apply(SplitRows(SplitSettings(**settings)), clustered)
    return SplitResult({name: [one for one in applied.rows if one.split is name] for name in Split}, applied.changes)


def test_no_group_is_in_two_splits_and_no_row_is_lost() -> None:
    rows = grouped(600, 80)
    result = split(rows)
    groups = [{one.group for one in members} for members in result.rows_by_split.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert sorted(one.id for members in result.rows_by_split.values() for one in members) == sorted(
        one.id for one in rows
    )


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_met_within_two_percent_of_the_rows(seed: int) -> None:
    sizes = {name: len(rows) for name, rows in split(grouped(600, 80, seed), seed=seed).rows_by_split.items()}
    assert abs(sizes[Split.VALIDATION] - 60) <= 12
    assert abs(sizes[Split.HOLDOUT] - 120) <= 12


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    rows = grouped(200, 40)
    assert split(rows, seed=3) == split(rows, seed=3)
    assert split(rows, seed=3) != split(rows, seed=4)


def test_clusters_and_equal_prompts_do_not_straddle() -> None:
    rows = [row(i) for i in range(60)] + [row(100 + i, prompt="the same prompt", completion=f"{i}") for i in range(10)]
    clusters = {f"row-{i}": "row-0" for i in range(0, 20, 2)}
    homes = {one.id: name for name, members in split(rows, clusters).rows_by_split.items() for one in members}
    assert len({homes[f"row-{i}"] for i in range(0, 20, 2)}) == 1
    assert len({homes[f"row-{100 + i}"] for i in range(10)}) == 1


def test_a_label_that_two_groups_share_is_not_kept_from_training() -> None:
    rows = [row(i, group=f"g{i}", label=f"l{i // 2}") for i in range(40)]
    result = split(rows)
    known = {one.label for one in result.rows_by_split[Split.TRAIN]}
    unseen = [
        one
        for name, members in result.rows_by_split.items()
        if name != "train"
        for one in members
        if one.label not in known
    ]
    assert len(unseen) <= 2


def test_too_few_groups_for_the_splits_are_named() -> None:
    rows = [row(i, group=f"g{i % 2}") for i in range(10)]
    with pytest.raises(SplitWouldBeEmptyError, match="10 rows in 2 groups") as caught:
        split(rows)
    assert caught.value.metadata["unit_count"] == "2"
    assert {len(members) > 0 for members in split(rows, validation_fraction=0).rows_by_split.values()} == {True, False}


def test_three_groups_are_enough_for_three_splits() -> None:
    rows = [row(i, group=f"g{min(i, 2)}") for i in range(100)]
    sizes = {name: len(members) for name, members in split(rows).rows_by_split.items()}
    assert sizes == {Split.TRAIN: 98, Split.VALIDATION: 1, Split.HOLDOUT: 1}


def test_an_unwanted_split_stays_empty() -> None:
    result = split(grouped(50, 20), validation_fraction=0, holdout_fraction=0)
    assert [len(members) for members in result.rows_by_split.values()] == [50, 0, 0]


def test_bounds_drop_rows_by_seed_and_say_so() -> None:
    rows = grouped(300, 60)
    result = split(rows, max_train_rows=50, max_holdout_rows=20, max_validation_rows=10)
    assert [len(members) for members in result.rows_by_split.values()] == [50, 10, 20]
    assert len(result.changes) == 300 - 80
    assert {change.reason for change in result.changes} == {
        "over_max_train_rows",
        "over_max_validation_rows",
        "over_max_holdout_rows",
    }
    assert result == split(rows, max_train_rows=50, max_holdout_rows=20, max_validation_rows=10)
