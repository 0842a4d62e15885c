"""Intervals are checked against scipy, scikit-learn and published tables, and by simulation of their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from luthierd.evaluator import statistics
from scipy import stats
from sklearn.metrics import f1_score


def grouped_sample(rng: np.random.Generator, group_count: int) -> tuple[list[float], list[str]]:
    """Skewed values with a common part within a group: true mean 0.15."""
    values, groups = [], []
    for group in range(group_count):
        shift = 0.15 * rng.standard_normal()
        for _ in range(1 + rng.poisson(2.0)):
            values.append(0.15 + shift + 0.2 * rng.standard_normal())
            groups.append(f"g{group}")
    return values, groups


def test_wilson_bounds_agree_with_scipy() -> None:
    for hits, count in [(0, 20), (1, 20), (17, 20), (20, 20), (66, 80)]:
        low, high = statistics.wilson_bounds(hits / count, count)
        expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_bootstrap_with_one_row_a_group_agrees_with_scipy_s_percentile_interval() -> None:
    rng = np.random.default_rng(1)
    values = rng.exponential(0.2, 200)
    found = statistics.bootstrap_interval(
        statistics.mean_of(list(values), [str(i) for i in range(200)]), seed=0, draws=20_000
    )
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=rng).confidence_interval
    assert found is not None
    # At 200 groups the widening to Student's t is 0.6 %.
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.002)


def test_more_confidence_widens_every_interval() -> None:
    rng = np.random.default_rng(3)
    groups = [str(number % 12) for number in range(60)]
    own, other = (statistics.mean_of(rng.random(60), groups) for _ in range(2))
    usual = statistics.difference_interval(own, other, seed=0)
    surer = statistics.difference_interval(own, other, seed=0, confidence=0.995)
    assert usual is not None
    assert surer is not None
    assert surer.low < usual.low < usual.high < surer.high


def test_the_same_seed_gives_the_same_interval() -> None:
    values, groups = grouped_sample(np.random.default_rng(3), 12)
    data = statistics.mean_of(values, groups)
    assert statistics.bootstrap_interval(data, seed=7) == statistics.bootstrap_interval(data, seed=7)
    assert statistics.bootstrap_interval(data, seed=7) != statistics.bootstrap_interval(data, seed=8)


def test_rows_of_one_group_count_as_one_observation() -> None:
    """Copying every row ten times inside its group brings no information: the interval stays."""
    values, groups = grouped_sample(np.random.default_rng(4), 10)
    once = statistics.bootstrap_interval(statistics.mean_of(values, groups), seed=0)
    copied = statistics.bootstrap_interval(statistics.mean_of(values * 10, groups * 10), seed=0)
    assert once is not None
    assert copied is not None
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_the_interval_covers_the_true_mean_in_about_95_of_100_samples_of_15_groups() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for repetition in range(400):
        values, groups = grouped_sample(rng, 15)
        interval = statistics.bootstrap_interval(statistics.mean_of(values, groups), seed=repetition, draws=800)
        assert interval is not None
        hits += interval.low <= 0.15 <= interval.high
    # Binomial noise at 400 repetitions: +- 2.2 points.
    assert 0.90 <= hits / 400 <= 0.98


def test_ignoring_groups_would_cover_far_less() -> None:
    rng = np.random.default_rng(6)
    hits = 0
    for repetition in range(200):
        values, _groups = grouped_sample(rng, 15)
        rows = [str(position) for position in range(len(values))]
        interval = statistics.bootstrap_interval(statistics.mean_of(values, rows), seed=repetition, draws=400)
        assert interval is not None
        hits += interval.low <= 0.15 <= interval.high
    assert hits / 200 < 0.90


def test_fewer_than_five_groups_give_no_interval_and_no_detectable_difference() -> None:
    data = statistics.mean_of([0.1, 0.2, 0.3, 0.4], ["a", "b", "c", "d"])
    assert statistics.bootstrap_interval(data, seed=0) is None
    assert statistics.detectable_difference(data) is None
    assert statistics.proportion_interval([1, 1, 1, 1], ["a", "b", "c", "d"]) is None


def test_standard_error_without_groups_is_the_textbook_s() -> None:
    values = list(np.random.default_rng(7).normal(size=50))
    data = statistics.mean_of(values, [str(i) for i in range(50)])
    assert statistics.standard_error(data) == pytest.approx(stats.sem(values), rel=1e-9)


def test_macro_f1_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(8)
    reference = [str(label) for label in rng.choice(["a", "b", "c"], 120, p=[0.6, 0.3, 0.1])]
    predicted = [str(label) for label in rng.choice(["a", "b", "c", "elsewhere"], 120)]
    groups = [str(group) for group in rng.integers(0, 20, 120)]
    expected = f1_score(reference, predicted, labels=["a", "b", "c"], average="macro", zero_division=0)
    assert statistics.macro_f1_of(reference, predicted, groups).value() == pytest.approx(expected)


def test_the_difference_of_macro_f1_draws_the_same_groups_for_both_arms() -> None:
    reference, groups = ["a", "b"] * 20, [str(i // 4) for i in range(40)]
    data = statistics.macro_f1_of(reference, reference, groups)
    interval = statistics.bootstrap_interval(statistics.difference_of(data, data), seed=0)
    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 0.0)


def test_a_proportion_over_agreeing_rows_is_as_sure_as_its_number_of_groups() -> None:
    interval = statistics.proportion_interval([1.0] * 60, [str(i % 20) for i in range(60)])
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(statistics.wilson_bounds(1.0, 20))


def test_a_proportion_with_independent_rows_comes_near_to_wilson_over_rows() -> None:
    rng = np.random.default_rng(9)
    values = [float(value) for value in rng.random(300) < 0.7]
    interval = statistics.proportion_interval(values, [str(i) for i in range(300)])
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(
        statistics.wilson_bounds(float(np.mean(values)), 300), abs=0.004
    )


def test_all_against_none_is_no_certainty() -> None:
    groups = [str(i % 20) for i in range(60)]
    all_right, none_right = statistics.mean_of([1.0] * 60, groups), statistics.mean_of([0.0] * 60, groups)
    interval = statistics.difference_interval(all_right, none_right, seed=0)
    assert interval is not None
    assert 0.70 < interval.low < 0.80
    assert interval.high == 1.0
    assert "Newcombe" in interval.method


def test_a_perfect_macro_f1_is_as_sure_as_its_number_of_groups() -> None:
    labels, groups = ["a", "b"] * 30, [str(i % 20) for i in range(60)]
    interval = statistics.mean_interval(statistics.macro_f1_of(labels, labels, groups), seed=0)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(statistics.wilson_bounds(1.0, 20))


def test_the_paired_difference_is_the_bootstrap_of_the_differences() -> None:
    rng = np.random.default_rng(12)
    values, groups = grouped_sample(rng, 15)
    shifted = [value + 0.1 + 0.01 * rng.standard_normal() for value in values]
    paired = statistics.mean_of([b - a for a, b in zip(values, shifted, strict=True)], groups)
    found = statistics.difference_interval(
        statistics.mean_of(shifted, groups), statistics.mean_of(values, groups), seed=3
    )
    expected = statistics.bootstrap_interval(paired, seed=3)
    assert found is not None
    assert expected is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_detectable_difference_is_found_in_about_four_of_five_samples() -> None:
    """Samples whose true mean is the (median) announced difference exclude zero about 80 times in 100."""
    rng = np.random.default_rng(10)
    samples = [grouped_sample(rng, 20) for _ in range(300)]
    announced = [statistics.detectable_difference(statistics.mean_of(values, groups)) for values, groups in samples]
    shift = float(np.median([value for value in announced if value is not None])) - 0.15
    found = 0
    for repetition, (values, groups) in enumerate(samples):
        shifted = statistics.mean_of([value + shift for value in values], groups)
        interval = statistics.bootstrap_interval(shifted, seed=repetition, draws=400)
        found += interval is not None and interval.low > 0
    assert 0.72 <= found / 300 <= 0.90
