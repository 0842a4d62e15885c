"""How far raters agree beyond chance: Cohen's kappa for two, Krippendorff's alpha for any number with gaps.

scikit-learn's kappa rejects fractional values, such as a tie of .5, and takes five seconds to import; the package
`krippendorff` is GPL.
"""

from __future__ import annotations

import enum
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import permutations


class Level(enum.StrEnum):
    """What the values are: names, ranks, or quantities; this decides how far apart two of them are."""

    NOMINAL = "nominal"
    ORDINAL = "ordinal"
    INTERVAL = "interval"


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Cohen (1960), unweighted: agreement of two raters on the same items. NaN without items, or where both always gave
    the same value.
    """
    count = len(first)
    if not count:
        return math.nan
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / count
    own, other = Counter(first), Counter(second)
    expected = sum(own[value] * other[value] for value in own) / count**2
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)


def krippendorff_alpha(units: Sequence[Sequence[float]], level: Level) -> float:
    """Krippendorff (2011, "Computing Krippendorff's Alpha-Reliability"): `units` has the values of each item, in any
    order; items with fewer than two do not count. NaN if none counts, or all values are the same.
    """
    pairs: defaultdict[tuple[float, float], float] = defaultdict(float)
    for values in units:
        for pair in permutations(values, 2):
            pairs[pair] += 1 / (len(values) - 1)
    totals: defaultdict[float, float] = defaultdict(float)
    for (value, _), weight in pairs.items():
        totals[value] += weight
    count = sum(totals.values())
    distance = _distances(totals, level)
    observed = sum(weight * distance[pair] for pair, weight in pairs.items())
    expected = sum(totals[a] * totals[b] * distance[a, b] for a in totals for b in totals)
    return math.nan if expected == 0 else 1 - (count - 1) * observed / expected


def _distances(totals: Mapping[float, float], level: Level) -> dict[tuple[float, float], float]:
    """The squared distance of any two values."""
    order = sorted(totals)
    if level is Level.NOMINAL:
        return {(a, b): float(a != b) for a in order for b in order}
    if level is Level.INTERVAL:
        return {(a, b): (a - b) ** 2 for a in order for b in order}
    found = {}
    for a in order:
        for b in order:
            low, high = min(a, b), max(a, b)
            between = sum(totals[value] for value in order if low <= value <= high)
            found[a, b] = (between - (totals[a] + totals[b]) / 2) ** 2
    return found
