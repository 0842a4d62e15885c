"""Slices: the parts of the rows that get figures of their own. A row is in the slice of its label and in those that its
dataset row names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from luthierd.evaluator.domain.rows import Row

# A slice of five arms and seven metrics takes some 17 kB of every read of the evaluation: the largest are kept.
MAX_SLICES = 30


def slices_of(row: Row) -> tuple[str, ...]:
    """`label:` and the label, if the row has one, then the row's own slices, each once."""
    by_label = (f"label:{row.label}",) if row.label is not None else ()
    return tuple(dict.fromkeys((*by_label, *row.slices)))


def slice_positions(rows: Sequence[Row]) -> Mapping[str, Sequence[int]]:
    """The positions of every slice's rows, largest slice first, MAX_SLICES at most."""
    found: dict[str, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        for name in slices_of(row):
            found[name].append(position)
    largest = sorted(found, key=lambda name: (-len(found[name]), name))[:MAX_SLICES]
    return {name: found[name] for name in largest}
