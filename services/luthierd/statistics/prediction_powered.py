"""A judge's mean, corrected by people's labels of some of the rows: prediction-powered inference (Angelopoulos et al.
2023, Science 382, 669) with power tuning (PPI++, Angelopoulos, Duchi & Zrnic 2023, arXiv 2311.01453).

The correction is unbiased however good the judge: a useless judge gets the weight 0, and the people's mean remains. It
assumes that the labelled rows were drawn at random. ppi-python has no clustered standard errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from luthierd.statistics.clustered import CONFIDENCE, MIN_GROUPS
from luthierd.statistics.estimates import Interval

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LabelledRow:
    """One row: the judge's score, people's label (None: not labelled), and its group."""

    judge: float
    human: float | None
    group: str


@dataclass(frozen=True)
class PoweredEstimate:
    """The corrected mean; `interval` is None with fewer than MIN_GROUPS labelled groups. `weight`: the judge's."""

    value: float
    interval: Interval | None
    weight: float


def prediction_powered_mean(
    rows: Sequence[LabelledRow], *, weight: float | None = None, confidence: float = CONFIDENCE
) -> PoweredEstimate | None:
    """The mean that people would give to all rows. `weight` None: tuned (PPI++); 1: the judge as it is (PPI). None
    without a labelled row. The variance is summed by group over labelled and other rows alike, so that groups may be
    split between them; Student's t has the labelled groups' degrees of freedom.
    """
    labelled = [row for row in rows if row.human is not None]
    others = [row for row in rows if row.human is None]
    if not labelled:
        return None
    human = np.array([row.human for row in labelled], dtype=np.float64)
    seen = np.array([row.judge for row in labelled], dtype=np.float64)
    unseen = np.array([row.judge for row in others], dtype=np.float64)
    chosen = _tuned_weight(human, seen, unseen) if weight is None else weight
    if not len(unseen):
        chosen = 0.0
    rectified = human - chosen * seen
    value = float(rectified.mean() + (chosen * unseen.mean() if len(unseen) else 0.0))
    parts = [(rectified - rectified.mean()) / len(rectified)]
    if len(unseen):
        parts.append(chosen * (unseen - unseen.mean()) / len(unseen))
    groups = len({row.group for row in labelled})
    if groups < MIN_GROUPS:
        return PoweredEstimate(value, None, chosen)
    error = _clustered_error(np.concatenate(parts), [row.group for row in [*labelled, *others]])
    half = float(special.stdtrit(groups - 1, (1 + confidence) / 2)) * error
    return PoweredEstimate(value, Interval(value - half, value + half, "prediction-powered, groups", groups), chosen)


def _tuned_weight(human: Array, seen: Array, unseen: Array) -> float:
    """The weight with the least variance (PPI++, example 6.1), clipped to 0 to 1."""
    everything = np.concatenate([seen, unseen])
    spread = float(everything.var())
    if len(seen) < 2 or not len(unseen) or spread == 0.0:
        return 0.0
    covariance = float(np.cov(human, seen)[0, 1])
    return min(1.0, max(0.0, covariance / ((1 + len(seen) / len(unseen)) * spread)))


def _clustered_error(influence: Array, groups: Sequence[str]) -> float:
    """The standard error of a sum of independent groups' influences."""
    position: Mapping[str, int] = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros(len(position))
    np.add.at(sums, [position[group] for group in groups], influence)
    return float(np.sqrt(len(sums) / max(1, len(sums) - 1) * np.sum(sums**2)))
