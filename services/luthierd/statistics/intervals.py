"""Which interval a figure gets: the bootstrap, and a score interval where the bootstrap has no spread and would claim
certainty. Figures lie in 0 to 1, differences in -1 to 1, and so do their intervals.
"""

from __future__ import annotations

from luthierd.statistics.clustered import CONFIDENCE, N_RESAMPLES, GroupSums, bootstrap_interval, difference_of
from luthierd.statistics.proportions import newcombe_bounds, wilson_bounds
from luthierd.statistics.uncertainty import Interval

# Wider than rounding, narrower than any interval that means something.
NO_SPREAD = 1e-9


def mean_interval(data: GroupSums, *, seed: int, n_resamples: int = N_RESAMPLES) -> Interval | None:
    """The interval of one figure. 100 % on every row: Wilson's, each group one trial. None with too few groups."""
    drawn = bootstrap_interval(data, seed=seed, n_resamples=n_resamples)
    if drawn is None or drawn.high - drawn.low > NO_SPREAD:
        return _within(drawn, 0.0, 1.0)
    low, high = wilson_bounds(min(1.0, max(0.0, data.value())), data.group_count)
    return Interval(low, high, "Wilson score, groups as trials", data.group_count)


def difference_interval(
    arm: GroupSums, reference: GroupSums, *, seed: int, n_resamples: int = N_RESAMPLES, confidence: float = CONFIDENCE
) -> Interval | None:
    """The interval of `arm` minus `reference` over the same rows. The same difference on every row: Newcombe's, each
    group one trial. None with too few groups.
    """
    drawn = bootstrap_interval(difference_of(arm, reference), seed=seed, n_resamples=n_resamples, confidence=confidence)
    if drawn is None or drawn.high - drawn.low > NO_SPREAD:
        return _within(drawn, -1.0, 1.0)
    own, other = (min(1.0, max(0.0, data.value())) for data in (arm, reference))
    low, high = newcombe_bounds(own, arm.group_count, other, arm.group_count, confidence=confidence)
    return Interval(low, high, "Newcombe score, groups as trials", arm.group_count)


def _within(interval: Interval | None, least: float, greatest: float) -> Interval | None:
    if interval is None:
        return None
    low, high = max(least, interval.low), min(greatest, interval.high)
    return Interval(low, high, interval.method, interval.group_count)
