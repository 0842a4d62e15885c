"""Which adapters stay in memory: least recently used go first, weighted by what it costs to bring them back.

GreedyDual (Young, "The k-server dual and loose competitiveness for paging", Algorithmica 1994; with sizes, Cao and
Irani, "Cost-aware WWW proxy caching algorithms", USITS 1997). Every use sets an adapter's worth to the current level
plus its cost; the one of least worth leaves, and its worth becomes the level. Equal costs make it LRU. Here the cost
is the measured time of the last load, and every adapter takes one place, so its size is 1.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Worth:
    """What an adapter's stay is worth, and when it was used last (a count, not a time)."""

    value: float = 0.0
    used: int = 0


class GreedyDual:
    """The level, and who goes first."""

    def __init__(self) -> None:
        self._level = 0.0
        self._uses = 0

    def use(self, worth: Worth, cost_s: float) -> None:
        """It was used; to bring it back would take `cost_s`."""
        self._uses += 1
        worth.value, worth.used = self._level + cost_s, self._uses

    def evict(self, worth: Worth) -> None:
        """It leaves."""
        self._level = max(self._level, worth.value)


def rank(worth: Worth) -> tuple[float, int]:
    """The least leaves first."""
    return worth.value, worth.used
