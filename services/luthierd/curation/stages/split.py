"""The split: training, validation and holdout by shares, where what belongs together stays together.

A unit is the finest thing that may be assigned: rows linked by a common group, a common prompt, or a cluster of near
duplicates. Of many seeded orders of the units the one that comes nearest to the shares and to the labels' mix is taken.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from luthierd.curation.clusters import clusters_of
from luthierd.curation.domain import Change, Row, Split
from luthierd.curation.stages.stage import STAGES, Applied, Progress, Stage
from luthierd.errors import InvalidArgumentError
from luthierd.settings import Fault, setting

MAX_ORDERS, MAX_UNITS_TRIED = 256, 200_000
"""Orders tried, fewer where there are many units: chance then evens out by itself. About half a second."""
SCARCE_LABEL_WEIGHT = 2.0
"""A held-out row beyond the training rows of its label costs this many times what a misplaced row does."""


class SplitWouldBeEmptyError(InvalidArgumentError):
    """There are fewer units than splits, so one would be empty."""

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


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Fractions for validation and holdout; the rest is for training. A maximum of 0 rows means no limit."""

    validation_fraction: float = setting(0.1, at_least=0, below=1)
    holdout_fraction: float = setting(0.2, at_least=0, below=1)
    seed: int = 0
    max_train_rows: int = setting(0, at_least=0)
    max_holdout_rows: int = setting(0, at_least=0)
    max_validation_rows: int = setting(0, at_least=0)

    def faults(self) -> Iterator[Fault]:
        """Something must be left to train on."""
        if self.validation_fraction + self.holdout_fraction >= 1:
            given = f"validation {self.validation_fraction} and holdout {self.holdout_fraction}"
            yield Fault("holdout_fraction", f"{given} leave nothing to train on")

    def max_rows(self, split: Split) -> int:
        """The limit of a split."""
        return int(getattr(self, f"max_{split}_rows"))


@dataclass(frozen=True)
class _Unit:
    rows: tuple[int, ...]
    labels: Counter[str]


@STAGES.register
class SplitRows(Stage):
    """Assigns every row; the same rows and seed give the same split. SplitWouldBeEmptyError."""

    name, Settings = "split", SplitSettings
    assigns_splits = True
    settings: SplitSettings

    def apply(self, rows: Sequence[Row], progress: Progress) -> Applied:
        settings, shares, units = self.settings, _shares(self.settings), _units(rows)
        if len(units) < len(shares):
            raise SplitWouldBeEmptyError(
                row_count=len(rows),
                unit_count=len(units),
                group_count=len({row.group for row in rows}),
                splits=list(shares),
            )
        order_count = max(1, min(MAX_ORDERS, MAX_UNITS_TRIED // len(units)))
        orders = (_assign(units, shares, settings.seed, order) for order in range(order_count))
        best = min(orders, key=lambda assigned: _cost(assigned, shares))
        kept: list[Row] = []
        changes: list[Change] = []
        for split, members in best.items():
            found = [rows[position] for position in sorted(position for unit in members for position in unit.rows)]
            chosen = _limited(found, settings.max_rows(split), settings.seed)
            kept += [dataclasses.replace(row, split=split) for row in chosen]
            ids = {row.id for row in chosen}
            reason = f"over_max_{split}_rows"
            changes += [Change(row.id, reason, is_dropped=True) for row in found if row.id not in ids]
        text = f"{len(units)} parts were not divided: groups, equal prompts, clusters of near duplicates."
        page = f"## What the split kept together\n\n{text}\n"
        return Applied(kept, changes, {"unit_count": len(units)}, page)


def _shares(settings: SplitSettings) -> dict[Split, float]:
    """The splits that are wanted at all."""
    shares = {
        Split.TRAIN: 1 - settings.validation_fraction - settings.holdout_fraction,
        Split.VALIDATION: settings.validation_fraction,
        Split.HOLDOUT: settings.holdout_fraction,
    }
    return {split: share for split, share in shares.items() if share > 0}


def _units(rows: Sequence[Row]) -> list[_Unit]:
    """Connected rows, by the order of their first row."""
    first_by_key: dict[object, int] = {}
    links = [
        (position, first_by_key.setdefault(key, position))
        for position, row in enumerate(rows)
        for key in (("group", row.group), ("cluster", row.cluster or row.id), ("prompt", row.prompt))
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


def _limited(rows: list[Row], limit: int, seed: int) -> list[Row]:
    """At most `limit` rows (0: all), drawn by seed and id, in their order."""
    if not limit or len(rows) <= limit:
        return rows
    drawn = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}/{row.id}".encode()).digest())[:limit]
    kept = {row.id for row in drawn}
    return [row for row in rows if row.id in kept]
