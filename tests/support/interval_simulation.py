"""Samples with a known truth, for measuring how often intervals hold: groups of rows, skewed or 0/1, even or uneven.

Used by tests (some hundred samples) and by benchmarks/interval_coverage.py (thousands).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from luthierd.statistics import clustered
from luthierd.statistics.estimates import Interval
from scipy import special


@dataclass(frozen=True)
class Sample:
    """Two arms on the same rows: the scores of each, and each row's group. truth: the expected difference."""

    own: list[float]
    other: list[float]
    groups: list[str]
    truth: float

    @property
    def differences(self) -> list[float]:
        return [a - b for a, b in zip(self.own, self.other, strict=True)]


@dataclass(frozen=True)
class Coverage:
    """Shares of samples: the truth inside, the interval wholly above it (a false GO where it is the bound), wholly
    below it, no interval at all; and the mean width.
    """

    covered: float
    above: float
    below: float
    width: float


# How rows fall into groups: one each, 1 + Poisson(2), or a long tail (mean 7, at most 40).
SIZES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "one": lambda rng, groups: np.ones(groups, dtype=int),
    "even": lambda rng, groups: 1 + rng.poisson(2.0, groups),
    "uneven": lambda rng, groups: 1 + np.minimum(rng.geometric(0.15, groups), 40),
}


def _normal(rng: np.random.Generator, shift: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray, float]:
    return 0.15 + 0.15 * shift + 0.2 * rng.standard_normal(rows), np.zeros(rows), 0.15


def _skewed(rng: np.random.Generator, shift: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray, float]:
    common = -np.log(special.ndtr(-shift)) - 1  # exponential, the same within a group
    return 0.15 + 0.15 * common + 0.2 * (rng.exponential(1, rows) - 1), np.zeros(rows), 0.15


def _binary(rng: np.random.Generator, shift: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray, float]:
    """0/1 scores: groups and rows differ in difficulty, which both arms feel. 42 % against 33 %."""
    ease = 0.8 * shift + 0.8 * rng.standard_normal(rows)
    own, other = ease + rng.standard_normal(rows) > 0.3, ease + rng.standard_normal(rows) > 0.7
    scale = np.sqrt(1 + 2 * 0.8**2)
    return own.astype(float), other.astype(float), float(special.ndtr(-0.3 / scale) - special.ndtr(-0.7 / scale))


def _rare(rng: np.random.Generator, shift: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray, float]:
    """0/1 scores near 100 %: 97 % against 92 %."""
    noise = np.sqrt(1 + 0.5**2)
    own = 0.5 * shift + rng.standard_normal(rows) < noise * special.ndtri(0.97)
    other = 0.5 * shift + rng.standard_normal(rows) < noise * special.ndtri(0.92)
    return own.astype(float), other.astype(float), 0.05


KINDS = {"normal": _normal, "skewed": _skewed, "binary": _binary, "rare": _rare}


def samples(kind: str, sizes: str, groups: int, *, count: int, seed: int, null: bool = False) -> Iterator[Sample]:
    """`count` samples. null: both arms are the same in distribution, the truth is 0."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        members = SIZES[sizes](rng, groups)
        shift = np.repeat(rng.standard_normal(groups), members)
        own, other, truth = KINDS[kind](rng, shift, int(members.sum()))
        names = np.repeat(np.arange(groups), members).astype(str)
        if null:  # a coin for each group says which arm is which
            swap = np.repeat(rng.random(groups) < 0.5, members)
            own, other, truth = np.where(swap, other, own), np.where(swap, own, other), 0.0
        yield Sample(own.tolist(), other.tolist(), names.tolist(), truth)


def coverage(interval: Callable[[Sample], Interval | None], drawn: Iterator[Sample]) -> Coverage:
    """How often `interval` holds the truth."""
    ends = []
    for sample in drawn:
        found = interval(sample)
        assert found is not None
        ends.append((found.low, found.high, sample.truth))
    low, high, truth = np.array(ends).T
    return Coverage(
        covered=float(np.mean((low <= truth) & (truth <= high))),
        above=float(np.mean(low > truth)),
        below=float(np.mean(high < truth)),
        width=float(np.mean(high - low)),
    )


@functools.cache
def noise(count: int, share: float = 0.95) -> float:
    """Two standard errors of a share measured in `count` samples."""
    return 2 * float(np.sqrt(share * (1 - share) / count))


def bca_interval(data: clustered.GroupSums, *, seed: int, n_resamples: int = clustered.N_RESAMPLES) -> Interval | None:
    """The bias-corrected and accelerated bootstrap over groups (Efron 1987), 95 %; None below MIN_GROUPS.

    It covers 93 to 95 % from about a hundred groups on and too little below (docs/statistics.md).
    """
    groups = data.group_count
    if groups < clustered.MIN_GROUPS:
        return None
    value, left_out = data.value(), clustered.left_out(data)
    replicates = data.statistic(clustered.group_weights(groups, seed, n_resamples) @ data.sums)
    replicates = replicates[np.isfinite(replicates)]
    below = (np.mean(replicates < value) + np.mean(replicates <= value)) / 2
    bias = special.ndtri(np.clip(below, 1 / n_resamples, 1 - 1 / n_resamples))
    deviations = left_out.mean() - left_out
    spread = np.sum(deviations**2) ** 1.5
    acceleration = np.sum(deviations**3) / (6 * spread) if spread > 0 else 0.0
    z = bias + special.ndtri((1 + clustered.CONFIDENCE) / 2) * np.array([-1.0, 1.0])
    low, high = np.quantile(replicates, special.ndtr(bias + z / (1 - acceleration * z)))
    return Interval(float(low), float(high), "group bootstrap, BCa", groups)
