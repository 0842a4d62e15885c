"""Whose weights gave an answer: the decision of the demo's swap, with made-up log-probabilities."""

from __future__ import annotations

import math

import pytest

from examples.demo.provenance import LIMIT_NATS, deviation_nats, is_from


def test_the_deviation_is_the_mean_over_tokens():
    assert deviation_nats([-1.0, -2.0], [-1.5, -1.9]) == pytest.approx(0.3)
    assert math.isinf(deviation_nats([], []))
    with pytest.raises(ValueError, match="zip"):
        deviation_nats([-1.0], [-1.0, -2.0])


@pytest.mark.parametrize(
    "deviations",
    [
        {"r1": 0.03, "r2": 0.18, "base": 0.4},
        {"r1": 1e-6, "r2": 0.01, "base": 0.4},  # float32: revisions that differ little
        {"r1": 0.0, "r2": 0.0, "base": 0.4},  # the same weights under two names
    ],
)
def test_rounding_leaves_an_answer_to_the_weights_it_names(deviations):
    assert is_from("r1", deviations)


@pytest.mark.parametrize(
    "deviations",
    [
        {"r1": 0.18, "r2": 0.03, "base": 0.4},  # another revision's
        {"r1": 0.08, "r2": 0.09, "base": 0.4},  # half the tokens of each
        {"r1": 0.05, "r2": 0.4, "base": 0.05},
        {"r1": 2 * LIMIT_NATS, "r2": 0.6, "base": 0.9},  # none of these
        {"r1": math.inf, "r2": math.inf, "base": math.inf},  # no tokens
    ],
)
def test_an_answer_of_other_weights_is_found(deviations):
    assert not is_from("r1", deviations)
