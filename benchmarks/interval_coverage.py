"""Coverage of the evaluator's intervals, and how often identical arms would get a GO, by simulation.

    PYTHONPATH=tests python -m benchmarks.interval_coverage [--samples 2000] [--groups 8,12,20,50] [--methods ...]

One JSON line per kind of score, size of groups, number of groups and method: the numbers in docs/statistics.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable

from luthierd.statistics import clustered, compare, proportions
from luthierd.statistics.estimates import Interval
from scipy import special
from support.interval_simulation import KINDS, SIZES, Coverage, Sample, bca_interval, coverage, samples

N_RESAMPLES = 1000
SEEDS = itertools.count()  # a seed per sample: shared resamples would correlate the errors


def bootstrap_t(sample: Sample) -> Interval | None:
    """What evaluations use."""
    own, other = (clustered.mean_of(scores, sample.groups) for scores in (sample.own, sample.other))
    return compare.difference_interval(own, other, seed=next(SEEDS), n_resamples=N_RESAMPLES)


def bca(sample: Sample) -> Interval | None:
    return bca_interval(clustered.mean_of(sample.differences, sample.groups), seed=next(SEEDS), n_resamples=N_RESAMPLES)


def student(sample: Sample) -> Interval | None:
    """Jackknife over groups, Student's t."""
    data = clustered.mean_of(sample.differences, sample.groups)
    half = special.stdtrit(data.group_count - 1, 0.975) * clustered.standard_error(data)
    return Interval(data.value() - half, data.value() + half, "t", data.group_count)


def tango(sample: Sample) -> Interval | None:
    """What evaluations use for 0/1 scores if every row is its own group."""
    return proportions.paired_interval(sample.own, sample.other)


METHODS: dict[str, Callable[[Sample], Interval | None]] = {
    "bootstrap-t": bootstrap_t,
    "BCa": bca,
    "t": student,
    "Tango": tango,
}


def measure(kind: str, sizes: str, groups: int, method: str, *, count: int) -> dict[str, object]:
    """One line: coverage of a true difference, and the share of GOs for identical arms."""
    true: Coverage = coverage(METHODS[method], samples(kind, sizes, groups, count=count, seed=1))
    same: Coverage = coverage(METHODS[method], samples(kind, sizes, groups, count=count, seed=2, null=True))
    return {
        "scores": kind,
        "groups": groups,
        "group_sizes": sizes,
        "method": method,
        "coverage": round(true.covered, 4),
        "width": round(true.width, 4),
        "coverage_of_identical_arms": round(same.covered, 4),
        "false_go": round(same.above, 4),
        "samples": count,
    }


def main() -> None:
    """Measures every meaningful combination."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interval_coverage", description=__doc__)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--groups", default="8,12,20,50")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--methods", default=",".join(METHODS))
    options = parser.parse_args()
    for kind, sizes, groups, method in itertools.product(
        options.kinds.split(","),
        options.sizes.split(","),
        map(int, options.groups.split(",")),
        options.methods.split(","),
    ):
        if method == "Tango" and (sizes != "one" or kind not in ("binary", "rare")):
            continue
        print(json.dumps(measure(kind, sizes, groups, method, count=options.samples)), flush=True)


if __name__ == "__main__":
    main()
