"""Delays that refused callers are told, on a clock that the test turns."""

from __future__ import annotations

import pytest
from luthierd.inference.admission.retry_after import MIN_RETRY_S, RetryAfter


class Clock:
    """Turned by hand; seconds."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_refused_callers_come_back_one_after_the_other() -> None:
    retry_after = RetryAfter(Clock(), mean_call_s=4.0)
    delays = [retry_after.next_s("acme", count=8) for _ in range(4)]
    assert delays == pytest.approx([0.5, 1.0, 1.5, 2.0])


def test_nobody_is_told_more_than_all_calls_in_flight_take() -> None:
    retry_after = RetryAfter(Clock(), mean_call_s=4.0)
    assert max(retry_after.next_s("acme", count=8) for _ in range(100)) == pytest.approx(4.0)


def test_a_tenant_does_not_wait_for_the_refused_callers_of_another() -> None:
    retry_after = RetryAfter(Clock(), mean_call_s=4.0)
    for _ in range(20):
        retry_after.next_s("flood", count=8)
    assert retry_after.next_s("acme", count=8) == pytest.approx(0.5)


def test_promises_whose_time_has_come_are_forgotten() -> None:
    clock = Clock()
    retry_after = RetryAfter(clock, mean_call_s=4.0)
    for _ in range(3):
        retry_after.next_s("acme", count=8)
    clock.now_s += 1.0  # two of the three are back
    assert retry_after.next_s("acme", count=8) == pytest.approx(1.0)
    clock.now_s += 10.0
    assert retry_after.next_s("acme", count=8) == pytest.approx(0.5)


def test_places_come_free_as_fast_as_calls_of_late_have_ended() -> None:
    retry_after = RetryAfter(Clock(), mean_call_s=4.0)
    for _ in range(200):
        retry_after.call_ended(8.0)
    assert retry_after.next_s("acme", count=8) == pytest.approx(1.0)


def test_a_delay_is_never_too_short_to_matter() -> None:
    assert RetryAfter(Clock(), mean_call_s=0.01).next_s("acme", count=100) == MIN_RETRY_S
