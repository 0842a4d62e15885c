"""Agreement and prediction-powered inference against published examples and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from luthierd.statistics.agreement import Level, cohen_kappa, krippendorff_alpha
from luthierd.statistics.prediction_powered import LabelledRow, prediction_powered_mean
from sklearn.metrics import cohen_kappa_score

# Krippendorff (2011), section D: four observers, twelve units, 0 for a missing value.
KRIPPENDORFF_2011 = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3),
    (0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0),
)
UNITS = [[value for value in column if value] for column in zip(*KRIPPENDORFF_2011, strict=True)]


@pytest.mark.parametrize(
    ("level", "published"), [(Level.NOMINAL, 0.743), (Level.ORDINAL, 0.815), (Level.INTERVAL, 0.849)]
)
def test_alpha_is_the_one_that_krippendorff_published(level: Level, published: float) -> None:
    assert krippendorff_alpha(UNITS, level) == pytest.approx(published, abs=0.0006)


def test_kappa_is_the_one_that_fleiss_published() -> None:
    """Fleiss, Levin & Paik (2003), table 18.1: 100 patients, two diagnoses each; kappa .68."""
    table = ((75, 1, 4), (5, 4, 1), (0, 0, 10))
    pairs = [(a, b) for a, row in enumerate(table) for b, count in enumerate(row) for _ in range(count)]
    first, second = zip(*pairs, strict=True)
    assert cohen_kappa(first, second) == pytest.approx(0.676, abs=0.0005)
    assert cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))


def test_agreement_that_cannot_be_told_from_chance_is_no_number() -> None:
    assert math.isnan(cohen_kappa([], []))
    assert math.isnan(cohen_kappa(["a", "a"], ["a", "a"]))
    assert math.isnan(krippendorff_alpha([[1], [2]], Level.NOMINAL))
    assert math.isnan(krippendorff_alpha([[1, 1], [1, 1]], Level.INTERVAL))


def drawn(rng: np.random.Generator, *, bias: float, noise: float) -> list[LabelledRow]:
    """200 groups of 3 rows, people asked about a fifth of the rows at random. Their mean is 0.6."""
    centre = np.repeat(rng.normal(0, 0.1, 200), 3)
    human = 0.6 + centre + rng.normal(0, 0.15, 600)
    judge = human + bias + rng.normal(0, noise, 600)
    asked = rng.random(600) < 0.2
    return [LabelledRow(float(judge[i]), float(human[i]) if asked[i] else None, f"g{i // 3}") for i in range(600)]


@pytest.mark.parametrize("noise", [0.05, 0.6])
def test_the_corrected_interval_covers_the_people_s_mean_whatever_the_judge_is_worth(noise: float) -> None:
    rng = np.random.default_rng(7)
    found = [prediction_powered_mean(drawn(rng, bias=0.2, noise=noise)) for _ in range(1200)]
    covered = [one.interval.low <= 0.6 <= one.interval.high for one in found if one and one.interval]
    assert len(covered) == 1200
    assert 0.935 <= np.mean(covered) <= 0.968
    assert np.mean([one.value for one in found if one]) == pytest.approx(0.6, abs=0.003)


def test_a_good_judge_narrows_the_interval_and_a_bad_one_does_not_widen_it() -> None:
    rng = np.random.default_rng(3)

    def width(rows: list[LabelledRow], **how: float) -> float:
        found = prediction_powered_mean(rows, **how)
        assert found is not None
        assert found.interval is not None
        return found.interval.high - found.interval.low

    good, bad = drawn(rng, bias=0.2, noise=0.05), drawn(rng, bias=0.2, noise=3.0)
    assert width(good) < 0.7 * width(good, weight=0.0)
    assert width(bad) < 1.05 * width(bad, weight=0.0) < width(bad, weight=1.0)


def test_without_people_there_is_no_correction_and_with_all_of_them_no_judge() -> None:
    assert prediction_powered_mean([LabelledRow(0.5, None, "a")]) is None
    rows = [LabelledRow(0.9, float(i % 2), f"g{i}") for i in range(10)]
    found = prediction_powered_mean(rows)
    assert found is not None
    assert (found.value, found.weight) == (0.5, 0.0)
    few = prediction_powered_mean(rows[:4])
    assert few is not None
    assert few.interval is None
