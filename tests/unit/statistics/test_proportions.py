"""Intervals and tests of 0/1 scores against scipy and published examples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from luthierd.statistics import clustered, compare, proportions
from luthierd.statistics.estimates import Interval
from luthierd.statistics.proportions import PairedCounts
from scipy import stats
from support.interval_simulation import Sample, coverage, noise, samples

COUNTS = [(0, 20), (1, 20), (17, 20), (20, 20), (66, 80)]


@pytest.mark.parametrize(("hits", "count"), COUNTS)
def test_wilson_bounds_agree_with_scipy(hits: int, count: int) -> None:
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert proportions.wilson_bounds(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("hits", "count"), COUNTS)
def test_exact_bounds_agree_with_scipy(hits: int, count: int) -> None:
    expected = stats.binomtest(hits, count).proportion_ci(method="exact")
    assert proportions.exact_bounds(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_newcombe_reproduces_the_published_example() -> None:
    """Newcombe 1998 (Statistics in Medicine 17:873), table II, example (a): 56/70 against 48/80."""
    bounds = proportions.newcombe_bounds(56 / 70, 70, 48 / 80, 80)
    assert bounds == pytest.approx((0.0524, 0.3339), abs=0.00005)


def test_tango_reproduces_the_published_example() -> None:
    """Airway hyper-responsiveness before and after transplantation (Bentur et al. 2009): Tango's interval is -.517 to
    -.026 in Fagerland, Lydersen & Laake, "Statistical Analysis of Contingency Tables", chapter 8.
    """
    low, high = proportions.tango_bounds(PairedCounts(gained=1, lost=7, total=21))
    assert (low, high) == pytest.approx((-0.517, -0.026), abs=0.0005)


def test_tango_at_90_percent_agrees_with_propcis() -> None:
    """`PropCIs::scoreci.mp(25, 28, 618, conf.level = 0.90)` of R."""
    low, high = proportions.tango_bounds(PairedCounts(gained=28, lost=25, total=618), confidence=0.90)
    assert (low, high) == pytest.approx((-0.0148, 0.0247), abs=0.00005)


def test_tango_s_interval_leaves_zero_out_exactly_when_mcnemar_s_statistic_is_significant() -> None:
    for gained, lost in itertools.product(range(0, 30, 3), repeat=2):
        if gained + lost == 0:
            continue
        low, high = proportions.tango_bounds(PairedCounts(gained, lost, 60))
        z = (gained - lost) / np.sqrt(gained + lost)
        assert (low > 0 or high < 0) == (abs(z) > stats.norm.ppf(0.975))


def test_mcnemar_mid_p_reproduces_the_published_example() -> None:
    """The same trial: mid-p .039, exact conditional .070 (Fagerland, Lydersen & Laake 2013, table 4)."""
    assert proportions.mcnemar_mid_p(1, 7) == pytest.approx(0.039, abs=0.0005)
    assert stats.binomtest(1, 8).pvalue == pytest.approx(0.070, abs=0.0005)


def test_mcnemar_mid_p_is_the_exact_test_less_half_of_what_was_seen() -> None:
    for gained, lost in [(3, 9), (9, 3), (12, 1), (0, 4)]:
        exact = stats.binomtest(gained, gained + lost).pvalue
        seen = stats.binom.pmf(gained, gained + lost, 0.5)
        assert proportions.mcnemar_mid_p(gained, lost) == pytest.approx(exact - seen)
    assert proportions.mcnemar_mid_p(5, 5) == pytest.approx(1.0)
    assert proportions.mcnemar_mid_p(0, 0) == 1.0


def test_a_proportion_over_agreeing_rows_is_as_sure_as_its_number_of_groups() -> None:
    interval = proportions.proportion_interval([1.0] * 60, [str(i % 20) for i in range(60)])
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(proportions.wilson_bounds(1.0, 20))


def test_a_proportion_with_independent_rows_comes_near_to_wilson_over_rows() -> None:
    values = [float(value) for value in np.random.default_rng(9).random(300) < 0.7]
    interval = proportions.proportion_interval(values, [str(i) for i in range(300)])
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(
        proportions.wilson_bounds(float(np.mean(values)), 300), abs=0.004
    )


def test_the_effective_count_is_of_the_groups_error_and_never_more_than_there_are_rows() -> None:
    halves = ["a", "b", "c", "d", "e", "f", "g", "h"] * 2
    alike = clustered.mean_of(([1.0] * 3 + [0.0] * 5) * 2, halves)  # both rows of a group always agree
    error, t = np.std([1.0] * 3 + [0.0] * 5, ddof=1) / np.sqrt(8), stats.t.ppf(0.975, 7)
    expected = 3 / 8 * 5 / 8 / error**2 * (stats.norm.ppf(0.975) / t) ** 2
    assert proportions.effective_count(alike, 3 / 8 * 5 / 8, 16) == pytest.approx(expected)
    unlike = clustered.mean_of([1.0] * 8 + [0.0] * 7 + [1.0], halves)  # one of two: less spread than of single rows
    assert proportions.effective_count(unlike, 0.25, 16) == pytest.approx(16 * (stats.norm.ppf(0.975) / t) ** 2)


def test_all_against_none_is_no_certainty() -> None:
    groups = [str(i % 20) for i in range(60)]
    all_right, none_right = clustered.mean_of([1.0] * 60, groups), clustered.mean_of([0.0] * 60, groups)
    interval = compare.difference_interval(all_right, none_right, seed=0)
    assert interval is not None
    assert 0.70 < interval.low < 0.80
    assert interval.high == 1.0
    assert "Newcombe" in interval.method


def paired(sample: Sample) -> Interval | None:
    return proportions.paired_interval(sample.own, sample.other)


def single(sample: Sample) -> Interval | None:
    return proportions.proportion_interval(sample.own, sample.groups)


@pytest.mark.parametrize(("kind", "rows"), [("binary", 30), ("rare", 100)])
def test_tango_covers_the_truth_and_tells_identical_arms_apart_no_more_often_than_alpha(kind: str, rows: int) -> None:
    found = coverage(paired, samples(kind, "one", rows, count=1000, seed=1))
    assert found.covered >= 0.95 - noise(1000)
    same = coverage(paired, samples(kind, "one", rows, count=1000, seed=2, null=True))
    assert same.above <= 0.025 + noise(1000, 0.975)


@pytest.mark.parametrize("sizes", ["even", "uneven"])
def test_the_interval_of_one_clustered_proportion_covers_the_truth(sizes: str) -> None:
    truth = float(stats.norm.cdf(-0.3 / np.sqrt(1 + 2 * 0.8**2)))
    found = [single(sample) for sample in samples("binary", sizes, 12, count=600, seed=3)]
    hits = [interval is not None and interval.low <= truth <= interval.high for interval in found]
    assert np.mean(hits) >= 0.95 - noise(600)


def test_fewer_than_eight_groups_give_no_interval() -> None:
    assert proportions.proportion_interval([1.0] * 14, [str(i % 7) for i in range(14)]) is None
    assert proportions.paired_interval([1.0] * 7, [0.0] * 7) is None
