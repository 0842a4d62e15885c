"""Near duplicates: MinHash (128 permutations) proposes pairs, exact Jaccard similarity decides.

LSH alone has false positives, which would drop good rows, and false negatives, whose rate the number of bands bounds.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from luthierd.curation.clusters import clusters_of
from luthierd.curation.domain import Change, Role, Row
from luthierd.curation.stages.stage import STAGES, Applied, Progress, Stage
from luthierd.settings import setting
from luthierd.text import jaccard, shingles, words

PERMUTATION_COUNT = 128
SIGNATURE_SEED = 20_231
BATCH_ROWS = 512
SHINGLE_CACHE_ROWS = 8192
"""Shingle sets kept for verification, about 10 kB a row; others are made again."""
MIN_RECALL = 0.999
"""Probability that LSH proposes a pair whose similarity is exactly the threshold."""


@dataclass(frozen=True, kw_only=True)
class NearDuplicatesSettings:
    """When two rows are one."""

    threshold: float = setting(0.85, at_least=0.3, at_most=1)
    """Jaccard similarity of word 3-shingles from which on two rows are near duplicates. Below 0.3 most candidates are
    noise, and verifying them is quadratic."""


@STAGES.register
class NearDuplicates(Stage):
    """Keeps the first of rows that are alike. A row is dropped for a kept one only: of A ~ B ~ C with A and C unlike,
    A and C stay. Both get one `cluster`, so that no split divides them.
    """

    name, Settings = "near_duplicates", NearDuplicatesSettings
    packages = {"rensa": "rensa"}
    settings: NearDuplicatesSettings

    def apply(self, rows: Sequence[Row], progress: Progress) -> Applied:
        import rensa  # loads 20 MB of numpy and Rust, which the server does not need

        threshold = self.settings.threshold
        index = rensa.RMinHashLSH(threshold, PERMUTATION_COUNT, band_count(threshold))

        @functools.lru_cache(SHINGLE_CACHE_ROWS)
        def shingles_at(position: int) -> frozenset[str]:
            return row_shingles(rows[position])

        def is_alike(position: int, other: int) -> bool:
            if _system_of(rows[position]) != _system_of(rows[other]):
                return False
            return jaccard(shingles_at(position), shingles_at(other)) >= threshold

        kept: dict[int, Row] = {}
        changes, links = [], list[tuple[int, int]]()
        for position, signature in enumerate(_signatures(rows, rensa)):
            row = rows[position]
            candidates = sorted(index.query(signature))
            index.insert(position, signature)
            linked = [other for other in candidates if other in kept and is_alike(position, other)]
            if linked:
                first = rows[linked[0]]
                reason = "near_duplicate" if first.completion == row.completion else "near_duplicate_other_answer"
                changes.append(Change(row.id, reason, is_dropped=True, kept_id=first.id))
            else:
                linked = [other for other in candidates if other not in kept and is_alike(position, other)]
                kept[position] = row
            links += [(position, other) for other in linked]
            if position % BATCH_ROWS == BATCH_ROWS - 1:
                progress(position + 1)
        clusters = clusters_of(len(rows), links)
        marked = [dataclasses.replace(row, cluster=rows[clusters[position]].id) for position, row in kept.items()]
        return Applied(marked, changes)


def band_count(threshold: float) -> int:
    """The fewest LSH bands that propose a pair at `threshold` with probability `MIN_RECALL`, for 128 permutations."""
    for bands in (8, 16, 32, 64):
        if 1 - (1 - threshold ** (PERMUTATION_COUNT / bands)) ** bands >= MIN_RECALL:
            return bands
    return PERMUTATION_COUNT


def row_shingles(row: Row) -> frozenset[str]:
    """Shingles over prompt and completion; of a shorter row its words, of one without words its texts.

    The system message is left out: it is often the same in all rows and would make unrelated ones alike. Rows with
    different ones are never compared.
    """
    spoken = [message.content for message in row.messages if message.role is not Role.SYSTEM]
    said = [word for text in spoken for word in words(text)]
    return shingles(said) or frozenset([" ".join(said)] if said else spoken)


def _system_of(row: Row) -> str | None:
    return row.messages[0].content if row.messages[0].role is Role.SYSTEM else None


def _signatures(rows: Sequence[Row], rensa: Any) -> Iterator[Any]:
    for start in range(0, len(rows), BATCH_ROWS):
        sets = [list(row_shingles(row)) for row in rows[start : start + BATCH_ROWS]]
        yield from rensa.RMinHash.from_token_sets(sets, PERMUTATION_COUNT, SIGNATURE_SEED)
