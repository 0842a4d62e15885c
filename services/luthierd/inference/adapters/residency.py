"""Which adapters stay in memory: the least recently used leave first, weighted by the cost of reloading them.

GreedyDual (Young, "The k-server dual and loose competitiveness for paging", Algorithmica 1994; with sizes, Cao and
Irani, "Cost-aware WWW proxy caching algorithms", USITS 1997). Every use sets an adapter's worth to the current level
plus its cost; the adapter with the lowest worth leaves, and its worth becomes the level. Equal costs make it LRU. The
cost is the measured time of the last load. Every adapter takes one place, so its size is 1.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(order=True)
class Worth:
    """What it is worth to keep an adapter; with equal values, the last use (a count) decides. The lowest leaves."""

    value: float = 0.0
    used: int = 0


class GreedyDual:
    """The current level, and the counter of uses."""

    def __init__(self) -> None:
        self._level = 0.0
        self._uses = 0

    def use(self, worth: Worth, cost_s: float) -> None:
        """The adapter was used; reloading it would take `cost_s`."""
        self._uses += 1
        worth.value, worth.used = self._level + cost_s, self._uses

    def evict(self, worth: Worth) -> None:
        self._level = max(self._level, worth.value)
