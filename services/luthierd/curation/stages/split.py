"""The split: training, validation and holdout by shares, where what belongs together stays together.

A unit is the finest thing that may be assigned: rows linked by a common group, a common prompt, or a cluster of near
duplicates. Of many seeded orders of the units the one that comes nearest to the shares and to the labels' mix is taken.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luthierd.curation.clusters import clusters_of
from luthierd.curation.domain import Change, Row, Split, Step
from luthierd.curation.recipe import SplitRules
from luthierd.errors import InvalidArgumentError

MAX_ORDERS, MAX_UNITS_TRIED = 256, 200_000
"""Orders tried, fewer where there are many units: chance then evens out by itself. About half a second."""
SCARCE_LABEL_WEIGHT = 2.0
"""A held-out row beyond the training rows of its label costs this many times what a misplaced row does."""


class SplitWouldBeEmptyError(InvalidArgumentError):
    """There are fewer units than splits, so that one would be empty."""

    reason = "SPLIT_WOULD_BE_EMPTY"

    def __init__(self, *, row_count: int, unit_count: int, group_count: int, splits: Sequence[Split]) -> None:
        wanted = ", ".join(splits)
        super().__init__(
            f"{row_count} rows in {group_count} groups fall into {unit_count} parts that must stay whole, too few for "
            f"{wanted}; import more groups, leave `group` out, or set the recipe's validation_fraction to 0",
            metadata={
                "row_count": str(row_count),
                "unit_count": str(unit_count),
                "group_count": str(group_count),
                "splits": wanted,
            },
        )


@dataclass(frozen=True)
class SplitResult:
    """The rows of each split, in their order, and those that a bound dropped."""

    rows_by_split: dict[Split, list[Row]]
    changes: list[Change]
    unit_count: int


@dataclass(frozen=True)
class _Unit:
    rows: tuple[int, ...]
    labels: Counter[str]


def split_rows(rows: Sequence[Row], rules: SplitRules, *, cluster_by_id: Mapping[str, str]) -> SplitResult:
    """Assigns every row; the same rows and seed give the same split. SplitWouldBeEmptyError."""
    shares = _shares(rules)
    units = _units(rows, cluster_by_id)
    if len(units) < len(shares):
        groups = len({row.group for row in rows})
        raise SplitWouldBeEmptyError(
            row_count=len(rows), unit_count=len(units), group_count=groups, splits=list(shares)
        )
    order_count = max(1, min(MAX_ORDERS, MAX_UNITS_TRIED // len(units)))
    orders = (_assign(units, shares, rules.seed, order) for order in range(order_count))
    best = min(orders, key=lambda assigned: _cost(assigned, shares))
    bounds = {
        Split.TRAIN: rules.max_train_rows,
        Split.VALIDATION: rules.max_validation_rows,
        Split.HOLDOUT: rules.max_holdout_rows,
    }
    changes: list[Change] = []
    rows_by_split: dict[Split, list[Row]] = {split: [] for split in Split}
    for split, members in best.items():
        positions = sorted(position for unit in members for position in unit.rows)
        chosen = _bounded([rows[position] for position in positions], bounds[split], rules.seed)
        kept = {row.id for row in chosen}
        rows_by_split[split] = chosen
        dropped = [rows[position].id for position in positions if rows[position].id not in kept]
        changes += [Change(row_id, Step.SPLIT, True, f"over_max_{split}_rows") for row_id in dropped]
    return SplitResult(rows_by_split, changes, len(units))


def _shares(rules: SplitRules) -> dict[Split, float]:
    """The splits that are wanted at all."""
    shares = {
        Split.TRAIN: 1 - rules.validation_fraction - rules.holdout_fraction,
        Split.VALIDATION: rules.validation_fraction,
        Split.HOLDOUT: rules.holdout_fraction,
    }
    return {split: share for split, share in shares.items() if share > 0}


def _units(rows: Sequence[Row], cluster_by_id: Mapping[str, str]) -> list[_Unit]:
    """Connected rows, by the order of their first row."""
    first_by_key: dict[object, int] = {}
    links = [
        (position, first_by_key.setdefault(key, position))
        for position, row in enumerate(rows)
        for key in (("group", row.group), ("cluster", cluster_by_id.get(row.id, row.id)), ("prompt", row.prompt))
    ]
    members: dict[int, list[int]] = defaultdict(list)
    for position, first in enumerate(clusters_of(len(rows), links)):
        members[first].append(position)
    return [
        _Unit(tuple(positions), Counter(label for p in positions if (label := rows[p].label) is not None))
        for positions in members.values()
    ]


def _assign(units: Sequence[_Unit], shares: Mapping[Split, float], seed: int, order: int) -> dict[Split, list[_Unit]]:
    """Gives each unit, in a random order, to the split that lacks the largest part of its share."""
    shuffled = list(units)
    random.Random(f"{seed}/{order}").shuffle(shuffled)  # noqa: S311 - reproducible, no secret
    total = sum(len(unit.rows) for unit in units)
    counts = dict.fromkeys(shares, 0)
    assigned: dict[Split, list[_Unit]] = {split: [] for split in shares}
    for unit in shuffled:
        split = max(shares, key=lambda one: 1 - counts[one] / (shares[one] * total))
        counts[split] += len(unit.rows)
        assigned[split].append(unit)
    return assigned


def _cost(assigned: Mapping[Split, Sequence[_Unit]], shares: Mapping[Split, float]) -> float:
    """Misplaced rows, held-out rows whose label training hardly shows, distance of the labels' mixes; per row."""
    counts = {split: sum(len(unit.rows) for unit in members) for split, members in assigned.items()}
    labels: dict[Split, Counter[str]] = {split: Counter() for split in shares}
    for split, members in assigned.items():
        for unit in members:
            labels[split].update(unit.labels)
    total = sum(counts.values())
    whole = sum(labels.values(), Counter[str]())
    misplaced = sum(abs(counts[split] - share * total) for split, share in shares.items()) / total
    scarce = sum(max(0, n - 2 * labels[Split.TRAIN][label]) for label, n in whole.items()) / total
    mix = 0.0
    for split, share in shares.items():
        size = max(1, labels[split].total())
        mix += share * sum(abs(labels[split][label] / size - n / whole.total()) for label, n in whole.items())
    return misplaced + SCARCE_LABEL_WEIGHT * scarce + 0.5 * mix


def _bounded(rows: list[Row], limit: int, seed: int) -> list[Row]:
    """At most `limit` rows (0: all), drawn by seed and id, in their order."""
    if not limit or len(rows) <= limit:
        return rows
    drawn = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}/{row.id}".encode()).digest())[:limit]
    kept = {row.id for row in drawn}
    return [row for row in rows if row.id in kept]
