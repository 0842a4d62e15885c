"""Which rows belong together when they are linked pair by pair."""

from __future__ import annotations

from collections.abc import Iterable


def clusters_of(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """The cluster of each of `count` positions, named by its first member. Union-find with path halving.

    scipy has it, too (`DisjointSet`); curation needs nothing else of scipy.
    """
    parents = list(range(count))

    def root(position: int) -> int:
        while parents[position] != position:
            parents[position] = parents[parents[position]]
            position = parents[position]
        return position

    for left, right in links:
        first, second = sorted((root(left), root(right)))
        parents[second] = first
    return [root(position) for position in range(count)]
