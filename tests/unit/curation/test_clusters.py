"""Clusters of linked positions."""

from __future__ import annotations

from luthierd.curation.clusters import clusters_of


def test_a_cluster_is_named_by_its_first_member() -> None:
    assert clusters_of(6, [(4, 2), (5, 4), (3, 3)]) == [0, 1, 2, 3, 2, 2]
    assert clusters_of(4, [(3, 2), (2, 1), (1, 0)]) == [0, 0, 0, 0]
    assert clusters_of(0, []) == []
