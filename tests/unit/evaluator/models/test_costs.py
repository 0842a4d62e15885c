"""Latency and cost."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import AnswerError
from luthierd.evaluator.models.costs import TokenPrice, arm_costs, percentile, quantile_interval, shared_s, union_s
from support.evaluator_material import answer


def test_percentiles_agree_with_numpy() -> None:
    values = [float(value) for value in np.random.default_rng(0).exponential(size=37)]
    for percent in (50, 95):
        assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)))
    assert percentile([], 50) == 0.0
    assert percentile([3.0], 95) == 3.0


def test_overlapping_queries_share_the_machine_and_a_pause_costs_nothing() -> None:
    assert union_s([(0, 10), (2, 5), (8, 12), (100, 101)]) == 13


def test_cost_is_price_times_busy_hours_for_1000_answers() -> None:
    answers = [answer(Arm.BASE, str(i), "x", start_s=0.0, total_s=36.0) for i in range(10)]
    [cost] = arm_costs({Arm.BASE: answers}, machine_price_per_hour=0.5)
    assert cost.busy_s == 36.0
    assert cost.cost_per_1000_answers == pytest.approx(0.5)  # 0.01 h x 0.5 for 10 answers, times 100
    assert cost.latency_ms_p50 == 36_000
    assert cost.ttft_ms_p50 == 9_000


def test_a_failed_query_takes_time_and_gives_no_latency() -> None:
    good = answer(Arm.RAG, "a", "x", start_s=0.0, total_s=2.0)
    failed = dataclasses.replace(answer(Arm.RAG, "b", "", start_s=2.0, total_s=8.0), error=AnswerError("X", "x"))
    [cost] = arm_costs({Arm.RAG: [good, failed]}, machine_price_per_hour=1.0)
    assert (cost.answered_count, cost.failed_count, cost.busy_s, cost.latency_ms_p95) == (1, 1, 10.0, 2000.0)


def test_an_arm_in_which_everything_failed_has_no_cost_per_answer() -> None:
    failed = dataclasses.replace(answer(Arm.RAG, "b", ""), error=AnswerError("X", "x"))
    [cost] = arm_costs({Arm.RAG: [failed]}, machine_price_per_hour=1.0)
    assert cost.cost_per_1000_answers == 0.0


def test_a_quantile_s_interval_is_between_the_order_statistics_of_the_tables() -> None:
    """Median of 10: the second and the ninth value, 97.9 % (any table of the sign test). With 5 there is none."""
    found = quantile_interval([float(value) for value in range(1, 11)], 50)
    assert found is not None
    assert (found.low, found.high) == (2.0, 9.0)
    assert quantile_interval([1.0, 2.0, 3.0, 4.0, 5.0], 50) is None
    assert quantile_interval([], 95) is None


def test_a_95th_percentile_needs_72_values() -> None:
    values = [float(value) for value in range(72)]
    assert quantile_interval(values[:71], 95) is None
    assert quantile_interval(values, 95) is not None


def test_the_interval_of_a_95th_percentile_holds_it() -> None:
    rng = np.random.default_rng(4)
    found = [quantile_interval(rng.random(200).tolist(), 95) for _ in range(600)]
    assert np.mean([one is not None and one.low <= 0.95 <= one.high for one in found]) >= 0.95 - 0.018


def test_arms_in_flight_together_share_the_machine_by_their_queries() -> None:
    spans = {Arm.BASE: [(0.0, 4.0), (0.0, 4.0)], Arm.RAG: [(2.0, 4.0), (2.0, 10.0)], Arm.ADAPTER: []}
    found = shared_s(spans)
    assert found == {Arm.BASE: pytest.approx(3.0), Arm.RAG: pytest.approx(7.0), Arm.ADAPTER: 0.0}
    assert sum(found.values()) == pytest.approx(union_s(span for own in spans.values() for span in own))


def test_an_endpoint_s_seconds_take_nothing_from_the_machine_s() -> None:
    given = {arm: [answer(arm, "a", "x", start_s=0.0, total_s=8.0)] for arm in (Arm.BASE, Arm.ENDPOINT)}
    prices = {Arm.ENDPOINT: TokenPrice(1.0, 1.0)}
    base, endpoint = arm_costs(given, machine_price_per_hour=1.0, token_prices=prices)
    assert (base.busy_s, endpoint.busy_s) == (8.0, 8.0)
