"""p-values that agree with the intervals shown, and their correction for several tests."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import special  # not scipy.stats: that takes two seconds to import, and only quantiles are needed

from luthierd.statistics.clustered import CONFIDENCE
from luthierd.statistics.estimates import Interval

# How a p-value was made.
MCNEMAR, BY_INTERVAL = "McNemar mid-p", "interval"


def p_value(estimate: float, interval: Interval, bound: float = 0.0) -> float:
    """Two-sided: one minus the confidence at which the interval's end would lie on `bound`, each half of the interval
    scaled as Student's t with one degree of freedom less than groups. Below .05 exactly if the interval leaves `bound`
    out.
    """
    if estimate == bound:
        return 1.0
    half = estimate - interval.low if bound < estimate else interval.high - estimate
    if half <= 0.0:
        return 0.0
    df = interval.group_count - 1
    t = abs(estimate - bound) / half * float(special.stdtrit(df, (1 + CONFIDENCE) / 2))
    return min(1.0, 2 * float(special.stdtr(df, -t)))


def p_above(estimate: float, interval: Interval, bound: float = 0.0) -> float:
    """One-sided p-value of the claim that the truth is above `bound`."""
    two_sided = p_value(estimate, interval, bound)
    return two_sided / 2 if estimate > bound else 1 - two_sided / 2


def at_confidence(estimate: float, interval: Interval, confidence: float) -> Interval:
    """The interval at another level than .95, scaled as in `p_value`."""
    df = interval.group_count - 1
    scale = float(special.stdtrit(df, (1 + confidence) / 2) / special.stdtrit(df, (1 + CONFIDENCE) / 2))
    low = estimate - (estimate - interval.low) * scale
    high = estimate + (interval.high - estimate) * scale
    return Interval(low, high, interval.method, interval.group_count)


def holm(p_values: Sequence[float | None], *, picked_from: int = 1) -> list[float | None]:
    """Holm's step-down adjustment (1979): if any adjusted value at or below alpha counts as a discovery, a false one
    is made at most with probability alpha, however the tests depend on each other. None stays None and is no test.

    picked_from: each value is the best of so many like it, and stands for all of them.
    """
    given = sorted((value, position) for position, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, position) in enumerate(given):
        largest = max(largest, min(1.0, value * ((len(given) - rank) * picked_from)))
        adjusted[position] = largest
    return adjusted
