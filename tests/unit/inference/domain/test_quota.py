"""Rates over a clock that the test moves."""

from __future__ import annotations

import random

import pytest
from luthierd.inference.domain.quota import Limits, Quota, RateMeter


def test_a_minute_s_allowance_may_be_taken_at_once_and_the_wait_for_more_is_exact() -> None:
    meter = RateMeter(0.0)
    assert meter.wait_s(60, 60, 0.0) == 0
    meter.take(60)
    assert meter.wait_s(1, 60, 0.0) == pytest.approx(1.0)
    assert meter.wait_s(30, 60, 10.0) == pytest.approx(20.0)
    assert meter.wait_s(30, 60, 30.0) == 0


def test_more_than_a_minute_s_allowance_passes_when_nothing_is_owed_and_is_worked_off() -> None:
    meter = RateMeter(0.0)
    assert meter.wait_s(600, 60, 0.0) == 0
    meter.take(600)
    assert meter.wait_s(1, 60, 0.0) == pytest.approx(541.0)


def test_what_is_given_back_may_be_taken_again_but_never_saves_up() -> None:
    meter = RateMeter(0.0)
    meter.take(60)
    meter.take(-59)
    assert meter.wait_s(59, 60, 0.0) == 0
    meter.take(-1000)
    assert meter.wait_s(60, 60, 0.0) == 0
    meter.take(60)
    assert meter.wait_s(1, 60, 0.0) > 0


@pytest.mark.parametrize("seed", range(20))
def test_in_no_span_is_more_taken_than_one_allowance_and_the_rate(seed: int) -> None:
    rng = random.Random(seed)
    per_minute, now, taken = rng.randint(1, 1000), 0.0, []
    meter = RateMeter(now)
    for _ in range(500):
        now += rng.expovariate(per_minute / 30)
        amount = rng.randint(1, per_minute)
        if meter.wait_s(amount, per_minute, now) == 0:
            meter.take(amount)
            taken.append((now, amount))
    for start, (since, _) in enumerate(taken):
        total = 0
        for at, amount in taken[start:]:
            total += amount
            assert total <= per_minute + (at - since) * per_minute / 60 + 1e-6


def test_a_quota_says_its_own_limits_over_the_defaults() -> None:
    quota = Quota(name="tenants/t/quota").changed({"weight": 2.0, "requests_per_minute": 0.0}, 1.0)
    limits = quota.limits(Limits(requests_per_minute=10, tokens_per_minute=20))
    assert limits == Limits(requests_per_minute=0, tokens_per_minute=20, weight=2.0)
    again = quota.changed({"weight": None}, 2.0)
    assert again.limits(Limits()).weight == 1.0
    assert len({quota.etag, again.etag, Quota(name="tenants/t/quota").etag}) == 3
