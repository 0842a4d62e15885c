"""Near duplicates: MinHash (128 permutations) proposes pairs, exact Jaccard similarity decides.

LSH alone has false positives, which would drop good rows, and false negatives, whose rate the number of bands bounds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import rensa

from luthierd.curation.clusters import clusters_of
from luthierd.curation.domain import Change, Role, Row, Step
from luthierd.text import jaccard, shingles, words

PERMUTATION_COUNT = 128
SIGNATURE_SEED = 20_231
BATCH_ROWS = 512
SHINGLE_CACHE_ROWS = 8192
"""Shingle sets kept for verification; further ones are made again. About 10 kB a row."""
MIN_RECALL = 0.999
"""Probability with which LSH proposes a pair whose similarity is just the threshold."""


@dataclass(frozen=True)
class NearDuplicates:
    """The rows that stay, what was dropped, and clusters (lists of ids) of which no two may be in different splits."""

    rows: list[Row]
    changes: list[Change]
    cluster_by_id: dict[str, str]
    """Kept rows that are linked by near duplicates (also through dropped ones): their id -> the cluster's first id."""


def band_count(threshold: float) -> int:
    """The fewest LSH bands that propose a pair at `threshold` with probability `MIN_RECALL`, for 128 permutations."""
    for bands in (8, 16, 32, 64):
        if 1 - (1 - threshold ** (PERMUTATION_COUNT / bands)) ** bands >= MIN_RECALL:
            return bands
    return PERMUTATION_COUNT


def row_shingles(row: Row) -> frozenset[str]:
    """Shingles over prompt and completion; of a shorter row its words, of one without words its texts.

    The system message is left out: it is often the same in all rows and would make strangers alike. Rows with
    different ones are never compared.
    """
    spoken = [message.content for message in row.messages if message.role is not Role.SYSTEM]
    said = [word for text in spoken for word in words(text)]
    return shingles(said) or frozenset([" ".join(said)] if said else spoken)


def drop_near_duplicates(rows: Sequence[Row], threshold: float, *, progress: Callable[[int], None]) -> NearDuplicates:
    """Keeps the first of rows at least `threshold` alike, in the order given; `progress` hears the rows done.

    A row is dropped for a kept one only: of A ~ B ~ C with A and C unlike, A and C stay, and are one cluster.
    """
    index = rensa.RMinHashLSH(threshold, PERMUTATION_COUNT, band_count(threshold))

    @functools.lru_cache(SHINGLE_CACHE_ROWS)
    def shingle_set(position: int) -> frozenset[str]:
        return row_shingles(rows[position])

    def is_alike(position: int, other: int) -> bool:
        if _system_of(rows[position]) != _system_of(rows[other]):
            return False
        return jaccard(shingle_set(position), shingle_set(other)) >= threshold

    kept: dict[int, Row] = {}
    changes, links = [], list[tuple[int, int]]()
    for position, signature in enumerate(_signatures(rows)):
        row = rows[position]
        candidates = sorted(index.query(signature))
        index.insert(position, signature)
        linked = [other for other in candidates if other in kept and is_alike(position, other)]
        if not linked:
            linked = [other for other in candidates if other not in kept and is_alike(position, other)]
            kept[position] = row
        else:
            first = linked[0]
            is_same_answer = rows[first].completion == row.completion
            reason = "near_duplicate" if is_same_answer else "near_duplicate_other_answer"
            changes.append(Change(row.id, Step.NEAR_DUPLICATES, True, reason, rows[first].id))
        links += [(position, other) for other in linked]
        if position % BATCH_ROWS == BATCH_ROWS - 1:
            progress(position + 1)
    first_of = clusters_of(len(rows), links)
    clusters = {row.id: rows[first_of[position]].id for position, row in kept.items()}
    return NearDuplicates(list(kept.values()), changes, clusters)


def _system_of(row: Row) -> str | None:
    return row.messages[0].content if row.messages[0].role is Role.SYSTEM else None


def _signatures(rows: Sequence[Row]) -> Iterator[rensa.RMinHash]:
    for start in range(0, len(rows), BATCH_ROWS):
        sets = [list(row_shingles(row)) for row in rows[start : start + BATCH_ROWS]]
        yield from rensa.RMinHash.from_token_sets(sets, PERMUTATION_COUNT, SIGNATURE_SEED)
