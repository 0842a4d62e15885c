"""Candidate intervals for means of few groups, compared on thousands of samples with a known true mean.

    PYTHONPATH=tests python -m benchmarks.interval_methods [--samples 4000] [--groups 8,20,40]

One JSON line per kind of score, sizes and number of groups. For each method it has how often the true mean lies inside
the interval, below it ("above": a false GO if the true mean is the bound) and above it, and how often identical arms
would get a GO. All samples of a case are one array, so this takes minutes where `interval_coverage` takes an hour. The
method in use is re-implemented from `luthierd/statistics/clustered.py`; `interval_coverage` measures the original. The
results are the table of methods in docs/statistics.md.

Shapes: M samples, G groups, B draws. Sums and influences are (M, G), estimates and errors (M,), draws (B, G),
replicates (B, M).
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from luthierd.statistics.clustered import CONFIDENCE, LEAST_ERROR
from scipy import special
from support.interval_simulation import KINDS, SIZES, samples

Array = npt.NDArray[np.float64]
N_RESAMPLES = 999
OUTER_DRAWS = 99  # of the double bootstrap, and as many inner ones per outer one
BLOCK = 50  # samples that share resamples; sharing them among all would correlate the errors
TAIL = (1 - CONFIDENCE) / 2
# Webb (2023), six points: Rademacher's two give only 2**G different draws.
WEBB = np.sqrt([1.5, 1.0, 0.5]).repeat(2) * np.tile([-1.0, 1.0], 3)


class Misses(NamedTuple):
    """For each sample, whether its interval lies wholly above or wholly below the true mean."""

    above: npt.NDArray[np.bool_]
    below: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """Samples of one kind: sums of differences and numbers of rows per group, and the true mean."""

    sums: Array
    rows: Array
    truth: float

    @cached_property
    def estimate(self) -> Array:
        return np.asarray(self.sums.sum(1) / self.rows.sum(1))

    @cached_property
    def influence(self) -> Array:
        """Influence of each group on the mean, by the jackknife; sums to 0."""
        groups = self.sums.shape[1]
        left_out = (self.sums.sum(1, keepdims=True) - self.sums) / (self.rows.sum(1, keepdims=True) - self.rows)
        found = (groups - 1) * (self.estimate[:, None] - left_out)
        return np.asarray(found - found.mean(1, keepdims=True))

    @cached_property
    def error(self) -> Array:
        """Standard error by the jackknife."""
        groups = self.sums.shape[1]
        return np.asarray(np.sqrt((self.influence**2).sum(1) / groups / (groups - 1)))

    @cached_property
    def t(self) -> Array:
        """Distance of the estimate above the true mean, in standard errors."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num((self.estimate - self.truth) / self.error)

    def blocks(self) -> Iterator[Case]:
        for start in range(0, len(self.sums), BLOCK):
            part = slice(start, start + BLOCK)
            yield Case(self.sums[part], self.rows[part], self.truth)


def case_of(kind: str, sizes: str, groups: int, *, count: int, seed: int, null: bool) -> Case:
    """`count` samples as `interval_simulation.samples` draws them."""
    sums, rows, truth = np.zeros((count, groups)), np.zeros((count, groups)), 0.0
    for at, sample in enumerate(samples(kind, sizes, groups, count=count, seed=seed, null=null)):
        names = np.asarray(sample.groups).astype(int)
        np.add.at(sums[at], names, sample.differences)
        np.add.at(rows[at], names, 1.0)
        truth = sample.truth
    return Case(sums, rows, truth)


def _beyond(t: Array, quantile: Array | float) -> Misses:
    return Misses(t > quantile, t < -np.asarray(quantile))


def student(case: Case, rng: np.random.Generator) -> Misses:
    """Jackknife over groups, Student's t."""
    return _beyond(case.t, float(special.stdtrit(case.sums.shape[1] - 1, 1 - TAIL)))


def satterthwaite(case: Case, rng: np.random.Generator) -> Misses:
    """Bell & McCaffrey (2002): CR2 standard error, degrees of freedom by Satterthwaite with independent rows."""
    shares = case.rows / case.rows.sum(1, keepdims=True)
    residuals = case.sums / case.rows - case.estimate[:, None]
    error = np.sqrt((shares**2 * residuals**2 / (1 - shares)).sum(1))
    groups = shares.shape[1]
    centred = np.eye(groups)[None] - shares[:, None, :]
    factors = centred * (shares / np.sqrt(1 - shares))[:, :, None]
    inner = np.einsum("mgk,mk,mhk->mgh", factors, 1 / case.rows, factors)
    df = np.einsum("mgg->m", inner) ** 2 / (inner**2).sum((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.nan_to_num((case.estimate - case.truth) / error)
    return _beyond(t, special.stdtrit(df, 1 - TAIL))


def hall(case: Case, rng: np.random.Generator) -> Misses:
    """Hall (1992): a cubic of t that takes its skewness out, against Student's t."""
    groups = case.sums.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = (case.influence**2).mean(1) ** 1.5
        skew = np.nan_to_num((case.influence**3).mean(1) / spread) / np.sqrt(groups)
    t = np.clip(case.t, -1e6, 1e6)  # its cube
    return _beyond(t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6, float(special.stdtrit(groups - 1, 1 - TAIL)))


def _replicates(block: Case, weights: Array) -> tuple[Array, Array]:
    """Estimates of the resamples and their standard errors, both (B, M)."""
    groups = block.sums.shape[1]
    first = weights @ block.influence.T / groups
    second = weights @ (block.influence**2).T / groups
    errors = np.sqrt(np.maximum(second - first**2, 0) / (groups - 1))
    return (weights @ block.sums.T) / (weights @ block.rows.T), errors


def _studentized(block: Case, rng: np.random.Generator) -> Array:
    """Shape (B, M): replicate minus estimate, divided by the replicate's error, as `clustered._studentized`."""
    groups = block.sums.shape[1]
    weights = rng.multinomial(groups, np.full(groups, 1 / groups), size=N_RESAMPLES).astype(float)
    replicates, errors = _replicates(block, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.nan_to_num((replicates - block.estimate) / np.maximum(errors, LEAST_ERROR * block.error))
    return np.asarray(found)


def bootstrap_t(case: Case, rng: np.random.Generator) -> Misses:
    """In use: Hall (1988), symmetric, never narrower than Student's t."""
    least = float(special.stdtrit(case.sums.shape[1] - 1, 1 - TAIL))
    quantiles = [np.quantile(np.abs(_studentized(one, rng)), CONFIDENCE, 0, method="higher") for one in case.blocks()]
    return _beyond(case.t, np.maximum(np.concatenate(quantiles), least))


def bootstrap_t_free(case: Case, rng: np.random.Generator) -> Misses:
    """The same without the floor of Student's t."""
    quantiles = [np.quantile(np.abs(_studentized(one, rng)), CONFIDENCE, 0, method="higher") for one in case.blocks()]
    return _beyond(case.t, np.concatenate(quantiles))


def bootstrap_t_tails(case: Case, rng: np.random.Generator) -> Misses:
    """Separate tails, which follow the shape of a skewed distribution."""
    drawn = [np.quantile(_studentized(one, rng), [TAIL, 1 - TAIL], axis=0) for one in case.blocks()]
    low, high = np.concatenate(drawn, axis=1)
    return Misses(case.t > high, case.t < low)


def bootstrap_t_calibrated(case: Case, rng: np.random.Generator) -> Misses:
    """Symmetric, at the level that a double bootstrap estimates to cover 95 % (Beran 1987)."""
    groups, quantiles = case.sums.shape[1], []
    for one in case.blocks():
        outer_draws = rng.multinomial(groups, np.full(groups, 1 / groups), size=OUTER_DRAWS).astype(float)
        outer, outer_error = _replicates(one, outer_draws)
        error = np.maximum(outer_error, LEAST_ERROR * one.error)
        with np.errstate(divide="ignore", invalid="ignore"):
            reached = np.nan_to_num(np.abs(outer - one.estimate) / error)
        level = np.zeros_like(reached)
        for draw, outer_weights in enumerate(outer_draws):
            inner_draws = rng.multinomial(groups, outer_weights / groups, size=OUTER_DRAWS).astype(float)
            inner, inner_error = _replicates(one, inner_draws)
            with np.errstate(divide="ignore", invalid="ignore"):
                inner_t = np.abs(inner - outer[draw]) / np.maximum(inner_error, LEAST_ERROR * error[draw])
            level[draw] = (np.nan_to_num(inner_t) < reached[draw]).mean(0)
        calibrated = np.quantile(level, CONFIDENCE, axis=0)
        first = np.abs(_studentized(one, rng))
        found = [np.quantile(first[:, at], min(1.0, calibrated[at])) for at in range(first.shape[1])]
        quantiles.append(np.asarray(found))
    return _beyond(case.t, np.concatenate(quantiles))


def percentile(case: Case, rng: np.random.Generator) -> Misses:
    """Percentile bootstrap, stretched by Student's t and the small-sample factor (Hesterberg 2015)."""
    groups = case.sums.shape[1]
    tail = special.ndtr(np.sqrt(groups / (groups - 1)) * special.stdtrit(groups - 1, TAIL))
    ends = []
    for one in case.blocks():
        weights = rng.multinomial(groups, np.full(groups, 1 / groups), size=N_RESAMPLES).astype(float)
        replicates = (weights @ one.sums.T) / (weights @ one.rows.T)
        ends.append(np.quantile(replicates, [tail, 1 - tail], axis=0))
    low, high = np.concatenate(ends, axis=1)
    return Misses(low > case.truth, high < case.truth)


def wild(case: Case, rng: np.random.Generator) -> Misses:
    """Wild cluster bootstrap-t, null imposed, Webb's weights, symmetric (Cameron, Gelbach & Miller 2008)."""
    rejected, sign = [], []
    for one in case.blocks():
        total = one.rows.sum(1)
        imposed = one.sums - one.truth * one.rows
        own = one.sums - one.estimate[:, None] * one.rows
        draws = rng.choice(WEBB, size=(N_RESAMPLES, imposed.shape[1]))
        moved = draws @ imposed.T
        mean = moved / total
        crossed, squared = draws @ (imposed * one.rows).T, draws**2 @ (imposed**2).T
        spread = np.sqrt(np.maximum(squared - 2 * mean * crossed + mean**2 * (one.rows**2).sum(1), 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = np.abs(np.nan_to_num(moved / spread))
            t = np.nan_to_num(imposed.sum(1) / np.sqrt((own**2).sum(1)))
        rejected.append((drawn >= np.abs(t)).mean(0) < 1 - CONFIDENCE)
        sign.append(t > 0)
    beyond, up = np.concatenate(rejected), np.concatenate(sign)
    return Misses(beyond & up, beyond & ~up)


METHODS: dict[str, Callable[[Case, np.random.Generator], Misses]] = {
    "jackknife t": student,
    "CR2, Satterthwaite": satterthwaite,
    "Hall's cubic": hall,
    "expanded percentile": percentile,
    "wild cluster, Webb": wild,
    "bootstrap-t, each tail": bootstrap_t_tails,
    "bootstrap-t, symmetric": bootstrap_t_free,
    "bootstrap-t, calibrated": bootstrap_t_calibrated,
    "in use": bootstrap_t,
}


def measure(
    kind: str, sizes: str, groups: int, *, count: int, methods: Sequence[str] = tuple(METHODS)
) -> dict[str, object]:
    """One case, in %: per method the coverage of a true difference, both tails, and false GOs."""
    true = case_of(kind, sizes, groups, count=count, seed=1, null=False)
    same = case_of(kind, sizes, groups, count=count, seed=2, null=True)
    line: dict[str, object] = {"scores": kind, "group_sizes": sizes, "groups": groups, "samples": count}
    for name in methods:
        method = METHODS[name]
        found, null = method(true, np.random.default_rng(3)), method(same, np.random.default_rng(4))
        above, below = 100 * found.above.mean(), 100 * found.below.mean()
        line[name] = {
            "covered": round(100 - above - below, 1),
            "above": round(above, 1),
            "below": round(below, 1),
            "false_go": round(100 * null.above.mean(), 1),
        }
    return line


def main() -> None:
    """Measures every case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interval_methods", description=__doc__)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--groups", default="8,20,40")
    # Rare failures in few groups often show no spread, and then another interval is used; `interval_coverage` measures
    # that.
    parser.add_argument("--kinds", default=",".join(kind for kind in KINDS if kind != "rare"))
    parser.add_argument("--sizes", default=",".join(name for name in SIZES if name != "one"))
    parser.add_argument("--methods", default=";".join(METHODS), help="names, parted by semicolons")
    options = parser.parse_args()
    for kind, sizes, groups in itertools.product(
        options.kinds.split(","), options.sizes.split(","), map(int, options.groups.split(","))
    ):
        line = measure(kind, sizes, groups, count=options.samples, methods=options.methods.split(";"))
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
