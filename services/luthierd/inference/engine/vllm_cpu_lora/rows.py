"""Which rows of a step belong to which adapter. Uses torch, not vLLM. Axes: T rows (tokens)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

BASE_SLOT = -1
"""vLLM's slot of a row without an adapter."""

LONG = 48
"""From this number of consecutive rows of one slot on, matrix products beat the kernel (measured, 2 cores)."""

MAX_GROUP = 16
"""Rows that the kernel computes together: its lanes."""


@dataclass(frozen=True)
class Run:
    """Consecutive rows of one slot, usually a prompt. `begin` is the first row, `end` the one after the last."""

    slot: int
    begin: int
    end: int


@dataclass(frozen=True)
class Group:
    """At most `MAX_GROUP` rows of one slot, in any positions."""

    slot: int
    rows: tuple[int, ...]


class RowSlots:
    """The slot of each row in a step, divided into long runs and groups of the other rows. One object per step."""

    def __init__(self, slots_T: Tensor) -> None:
        self.slots_T = slots_T
        runs = _runs(slots_T)
        self.long_runs = tuple(run for run in runs if run.end - run.begin >= LONG)
        self.groups = _groups([run for run in runs if run.end - run.begin < LONG])
        self.active = tuple(sorted({run.slot for run in runs}))
        self.group_slots = tuple(group.slot for group in self.groups)

    @functools.cached_property
    def group_rows(self) -> Tensor:
        """The indices of all groups' rows."""
        return torch.tensor([row for group in self.groups for row in group.rows])

    def __len__(self) -> int:
        return int(self.slots_T.shape[0])


def _runs(slots_T: Tensor) -> list[Run]:
    """Rows with an adapter, as runs."""
    values, counts = torch.unique_consecutive(slots_T, return_counts=True)
    runs, begin = [], 0
    for slot, count in zip(values.tolist(), counts.tolist(), strict=True):
        if slot != BASE_SLOT:
            runs.append(Run(slot, begin, begin + count))
        begin += count
    return runs


def _groups(runs: list[Run]) -> tuple[Group, ...]:
    by_slot: dict[int, list[int]] = {}
    for run in runs:
        by_slot.setdefault(run.slot, []).extend(range(run.begin, run.end))
    return tuple(
        Group(slot, tuple(rows[begin : begin + MAX_GROUP]))
        for slot, rows in sorted(by_slot.items())
        for begin in range(0, len(rows), MAX_GROUP)
    )
