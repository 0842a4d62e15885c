"""p-values agree with the intervals; Holm's correction with a textbook."""

from __future__ import annotations

import numpy as np
import pytest
from luthierd.statistics import clustered, compare, significance
from luthierd.statistics.estimates import Interval
from scipy import stats
from support.interval_simulation import samples


def student(values: np.ndarray) -> Interval:
    found = stats.ttest_1samp(values, 0).confidence_interval()
    return Interval(found.low, found.high, "t", len(values))


def test_of_student_s_interval_the_p_value_is_student_s() -> None:
    values = np.random.default_rng(1).normal(0.2, 0.5, 25)
    mean = float(values.mean())
    for bound in (-0.1, 0.0, 0.15, 0.4):
        expected = stats.ttest_1samp(values, bound)
        assert significance.p_value(mean, student(values), bound) == pytest.approx(expected.pvalue)
        above = stats.ttest_1samp(values, bound, alternative="greater").pvalue
        assert significance.p_above(mean, student(values), bound) == pytest.approx(above)


def test_another_level_of_student_s_interval_is_student_s() -> None:
    values = np.random.default_rng(1).normal(0.2, 0.5, 25)
    found = significance.at_confidence(float(values.mean()), student(values), 0.995)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.995)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_p_value_is_below_five_percent_exactly_where_the_interval_leaves_zero_out() -> None:
    for sample in samples("skewed", "uneven", 10, count=60, seed=4):
        own, other = (clustered.mean_of(scores, sample.groups) for scores in (sample.own, sample.other))
        interval = compare.difference_interval(own, other, seed=0, n_resamples=400)
        assert interval is not None
        estimate = own.value() - other.value()
        assert (significance.p_value(estimate, interval) < 0.05) == (not interval.low <= 0 <= interval.high)


def test_holm_reproduces_a_worked_example() -> None:
    """`p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")` of R: 0.03 0.06 0.06 0.02."""
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_what_has_no_p_value_is_no_test() -> None:
    assert significance.holm([0.01, None, 0.04]) == [pytest.approx(0.02), None, pytest.approx(0.04)]
    assert significance.holm([]) == []
    assert significance.holm([None]) == [None]


def test_a_p_value_that_is_the_best_of_ten_counts_ten_times() -> None:
    assert significance.holm([0.004], picked_from=10) == [pytest.approx(0.04)]


def test_the_best_of_many_equal_arms_is_a_discovery_no_more_often_than_alpha() -> None:
    rng = np.random.default_rng(6)
    p_values = rng.random((4000, 12))
    uncorrected = np.mean(p_values.min(axis=1) < 0.05)
    corrected = np.mean([min(p or 1.0 for p in significance.holm(row)) < 0.05 for row in p_values.tolist()])
    assert uncorrected > 0.4
    assert corrected <= 0.05 + 0.01
