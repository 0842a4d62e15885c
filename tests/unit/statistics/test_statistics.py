"""Intervals are checked against scipy, scikit-learn and published tables, and by simulation of their coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from luthierd.statistics import clustered, compare, proportions
from luthierd.statistics.estimates import Interval
from scipy import stats
from sklearn.metrics import f1_score
from support.interval_simulation import Sample, bca_interval, coverage, noise, samples

SEEDS = itertools.count()


def bootstrap(sample: Sample) -> Interval | None:
    own, other = (clustered.mean_of(scores, sample.groups) for scores in (sample.own, sample.other))
    return compare.difference_interval(own, other, seed=next(SEEDS), n_resamples=600)


def bca(sample: Sample) -> Interval | None:
    return bca_interval(clustered.mean_of(sample.differences, sample.groups), seed=next(SEEDS), n_resamples=600)


def grouped_sample(rng: np.random.Generator, group_count: int) -> tuple[list[float], list[str]]:
    """Skewed values with a common part within a group: true mean 0.15."""
    values, groups = [], []
    for group in range(group_count):
        shift = 0.15 * rng.standard_normal()
        for _ in range(1 + rng.poisson(2.0)):
            values.append(0.15 + shift + 0.2 * rng.standard_normal())
            groups.append(f"g{group}")
    return values, groups


def test_bca_with_one_row_a_group_agrees_with_scipy() -> None:
    rng = np.random.default_rng(1)
    values = rng.exponential(0.2, 120)
    found = bca_interval(clustered.mean_of(list(values), [str(i) for i in range(120)]), seed=0, n_resamples=20_000)
    expected = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=20_000, rng=rng).confidence_interval
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.002)


def test_with_many_normal_groups_the_bootstrap_is_student_s_interval() -> None:
    values = np.random.default_rng(2).normal(0.1, 0.3, 300)
    found = clustered.bootstrap_interval(
        clustered.mean_of(list(values), [str(i) for i in range(300)]), seed=0, n_resamples=20_000
    )
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert found is not None
    assert found.low <= expected.low + 1e-12
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.002)


def test_the_interval_of_a_mean_is_hall_s_written_out() -> None:
    """One row a group: a draw's error is the textbook's, and the quantile that of its t."""
    values = np.random.default_rng(3).exponential(size=15)
    groups = [f"g{at}" for at in range(15)]
    found = clustered.bootstrap_interval(clustered.mean_of(values.tolist(), groups), seed=7, n_resamples=500)
    assert found is not None
    sorted_values = values[np.argsort(groups)]
    error = values.std(ddof=1) / np.sqrt(15)
    drawn = [np.repeat(sorted_values, counts.astype(int)) for counts in clustered.group_weights(15, 7, 500)]
    errors = [max(one.std(ddof=1) / np.sqrt(15), clustered.LEAST_ERROR * error) for one in drawn]
    t = [abs(one.mean() - values.mean()) / own for one, own in zip(drawn, errors, strict=True)]
    half = np.quantile(t, 0.95, method="higher") * error
    assert half > error * stats.t.ppf(0.975, 14)  # the floor of Student's t is not what is tested here
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half))


def test_a_draw_without_any_spread_counts_as_if_it_had_a_third_of_the_error() -> None:
    """One hit in eight groups: a third of the draws miss it, and have no error of their own."""
    data = clustered.mean_of([1.0] + [0.0] * 7, [f"g{at}" for at in range(8)])
    found = clustered.bootstrap_interval(data, seed=0)
    assert found is not None
    assert (found.high - found.low) / 2 == pytest.approx(0.125 / clustered.LEAST_ERROR)


def test_beyond_the_drawn_groups_the_interval_is_student_s_exactly() -> None:
    count = clustered.MAX_DRAWN_GROUPS + 1
    values = np.random.default_rng(2).normal(0.1, 0.3, count)
    found = clustered.bootstrap_interval(clustered.mean_of(list(values), [str(i) for i in range(count)]), seed=0)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert found.method == "group t"


def test_more_confidence_widens_every_interval() -> None:
    rng = np.random.default_rng(3)
    groups = [str(number % 12) for number in range(60)]
    own, other = (clustered.mean_of(rng.random(60), groups) for _ in range(2))
    usual = compare.difference_interval(own, other, seed=0)
    surer = compare.difference_interval(own, other, seed=0, confidence=0.995)
    assert usual is not None
    assert surer is not None
    assert surer.low < usual.low < usual.high < surer.high


def test_the_same_seed_gives_the_same_interval() -> None:
    values, groups = grouped_sample(np.random.default_rng(3), 12)
    data = clustered.mean_of(values, groups)
    assert clustered.bootstrap_interval(data, seed=7) == clustered.bootstrap_interval(data, seed=7)
    assert clustered.bootstrap_interval(data, seed=7) != clustered.bootstrap_interval(data, seed=8)


def test_rows_of_one_group_count_as_one_observation() -> None:
    """Copying every row ten times inside its group brings no information: the interval stays."""
    values, groups = grouped_sample(np.random.default_rng(4), 10)
    once = clustered.bootstrap_interval(clustered.mean_of(values, groups), seed=0)
    copied = clustered.bootstrap_interval(clustered.mean_of(values * 10, groups * 10), seed=0)
    assert once is not None
    assert copied is not None
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


@pytest.mark.parametrize(
    ("kind", "sizes", "groups", "least"),
    [
        ("normal", "even", 8, 0.95),
        ("skewed", "even", 15, 0.95),
        ("binary", "even", 12, 0.95),
        ("binary", "uneven", 12, 0.95),
        # The worst of all that were simulated: see docs/statistics.md.
        ("skewed", "uneven", 20, 0.93),
    ],
)
def test_the_interval_covers_the_truth_as_often_as_it_says(kind: str, sizes: str, groups: int, least: float) -> None:
    found = coverage(bootstrap, samples(kind, sizes, groups, count=400, seed=5))
    assert found.covered >= least - noise(400)
    assert found.above <= 0.025 + noise(400, 0.975)


@pytest.mark.parametrize(("kind", "sizes"), [("skewed", "uneven"), ("binary", "even"), ("rare", "even")])
def test_identical_arms_are_told_apart_no_more_often_than_alpha(kind: str, sizes: str) -> None:
    found = coverage(bootstrap, samples(kind, sizes, 12, count=400, seed=11, null=True))
    assert found.above <= 0.025 + noise(400, 0.975)
    assert found.covered >= 0.95 - noise(400)


def test_bca_and_percentile_cover_too_little_with_few_groups() -> None:
    """Why they are not the default."""
    found = coverage(bca, samples("skewed", "uneven", 12, count=300, seed=5))
    assert found.covered < 0.92


def test_ignoring_groups_would_cover_far_less() -> None:
    rng = np.random.default_rng(6)
    hits = 0
    for repetition in range(200):
        values, _groups = grouped_sample(rng, 15)
        rows = [str(position) for position in range(len(values))]
        interval = clustered.bootstrap_interval(clustered.mean_of(values, rows), seed=repetition, n_resamples=400)
        assert interval is not None
        hits += interval.low <= 0.15 <= interval.high
    assert hits / 200 < 0.90


def test_fewer_than_eight_groups_give_no_interval_and_no_minimum_detectable_effect() -> None:
    data = clustered.mean_of([0.1, 0.2, 0.3, 0.4, 0.1, 0.2, 0.3], list("abcdefg"))
    assert clustered.bootstrap_interval(data, seed=0) is None
    assert bca_interval(data, seed=0) is None
    assert clustered.minimum_detectable_effect(data) is None


def test_standard_error_without_groups_is_the_textbook_s() -> None:
    values = list(np.random.default_rng(7).normal(size=50))
    data = clustered.mean_of(values, [str(i) for i in range(50)])
    assert clustered.standard_error(data) == pytest.approx(stats.sem(values), rel=1e-9)


def test_macro_f1_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(8)
    reference = [str(label) for label in rng.choice(["a", "b", "c"], 120, p=[0.6, 0.3, 0.1])]
    predicted = [str(label) for label in rng.choice(["a", "b", "c", "elsewhere"], 120)]
    groups = [str(group) for group in rng.integers(0, 20, 120)]
    expected = f1_score(reference, predicted, labels=["a", "b", "c"], average="macro", zero_division=0)
    assert clustered.macro_f1_of(reference, predicted, groups).value() == pytest.approx(expected)


def test_an_interval_of_scores_ends_where_scores_end() -> None:
    data = clustered.mean_of([1.0] * 11 + [0.4], [f"g{at}" for at in range(12)])
    found = compare.mean_interval(data, seed=0)
    assert found is not None
    assert found.low < 0.95
    assert found.high == 1.0


def test_a_label_that_a_draw_does_not_hold_leaves_that_draw_s_macro_f1() -> None:
    reference, predicted = ["a"] * 5 + ["b"] * 3, ["a", "a", "b", "a", "c", "b", "a", "b"]
    data = clustered.macro_f1_of(reference, predicted, [*("first",) * 5, *("second",) * 3])
    drawn = data.statistic(np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]) @ data.sums)
    expected = [
        f1_score(reference[:5], predicted[:5], labels=["a"], average="macro"),
        f1_score(reference[5:], predicted[5:], labels=["b"], average="macro"),
        f1_score(reference, predicted, labels=["a", "b"], average="macro"),
    ]
    assert drawn.tolist() == pytest.approx(expected)


def test_the_difference_of_macro_f1_draws_the_same_groups_for_both_arms() -> None:
    reference, groups = ["a", "b"] * 20, [str(i // 4) for i in range(40)]
    data = clustered.macro_f1_of(reference, reference, groups)
    interval = clustered.bootstrap_interval(clustered.difference_of(data, data), seed=0)
    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 0.0)


def test_a_perfect_macro_f1_is_as_sure_as_its_number_of_groups() -> None:
    labels, groups = ["a", "b"] * 30, [str(i % 20) for i in range(60)]
    interval = compare.mean_interval(clustered.macro_f1_of(labels, labels, groups), seed=0)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(proportions.wilson_bounds(1.0, 20))


def test_the_paired_difference_is_the_bootstrap_of_the_differences() -> None:
    rng = np.random.default_rng(12)
    values, groups = grouped_sample(rng, 15)
    shifted = [value + 0.1 + 0.01 * rng.standard_normal() for value in values]
    paired = clustered.mean_of([b - a for a, b in zip(values, shifted, strict=True)], groups)
    found = compare.difference_interval(clustered.mean_of(shifted, groups), clustered.mean_of(values, groups), seed=3)
    expected = clustered.bootstrap_interval(paired, seed=3)
    assert found is not None
    assert expected is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_minimum_detectable_effect_is_the_textbook_s_sum_of_two_quantiles() -> None:
    data = clustered.mean_of(np.arange(12.0).tolist(), [f"g{at}" for at in range(12)])
    error = np.arange(12.0).std(ddof=1) / np.sqrt(12)
    expected = (stats.t.ppf(0.975, 11) + stats.t.ppf(0.8, 11)) * error
    assert clustered.minimum_detectable_effect(data) == pytest.approx(expected)


def test_a_minimum_detectable_effect_is_found_in_about_four_of_five_samples() -> None:
    """Samples whose true mean is the (median) announced difference exclude zero about 80 times in 100."""
    rng = np.random.default_rng(10)
    samples = [grouped_sample(rng, 20) for _ in range(300)]
    announced = [clustered.minimum_detectable_effect(clustered.mean_of(values, groups)) for values, groups in samples]
    shift = float(np.median([value for value in announced if value is not None])) - 0.15
    found = 0
    for repetition, (values, groups) in enumerate(samples):
        shifted = clustered.mean_of([value + shift for value in values], groups)
        interval = clustered.bootstrap_interval(shifted, seed=repetition, n_resamples=400)
        found += interval is not None and interval.low > 0
    assert 0.72 <= found / 300 <= 0.90
