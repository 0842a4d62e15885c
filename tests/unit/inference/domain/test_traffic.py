"""Who answers: weights, and sessions that stay."""

from __future__ import annotations

import random
from collections import Counter

from luthierd.inference.domain.deployment import Share, chosen

SESSIONS = [f"session-{number}" for number in range(4000)]


def by_session(*weights: int, deployment: str = "d") -> dict[str, str]:
    """The revision that each session gets; revisions are called 0, 1, ..."""
    shares = [Share(str(index), weight) for index, weight in enumerate(weights)]
    rng = random.Random(0)
    return {one: chosen(shares, deployment=deployment, session_id=one, rng=rng) for one in SESSIONS}


def test_sessions_are_split_by_weight_and_a_weight_of_zero_gets_none() -> None:
    counts = Counter(by_session(90, 10, 0).values())
    assert counts["2"] == 0
    assert 320 < counts["1"] < 480  # 400 expected; the standard deviation is 19


def test_a_session_stays_and_moves_only_to_the_revision_whose_weight_grew() -> None:
    before, after = by_session(90, 10, 10), by_session(90, 30, 10)
    assert by_session(90, 10, 10) == before
    assert {after[one] for one in SESSIONS if after[one] != before[one]} == {"1"}


def test_deployments_split_their_sessions_independently() -> None:
    one, other = by_session(50, 50), by_session(50, 50, deployment="e")
    assert 1800 < sum(one[session] == other[session] for session in SESSIONS) < 2200


def test_requests_without_a_session_are_drawn() -> None:
    rng = random.Random(3)
    shares = [Share("a", 3), Share("b", 1)]
    counts = Counter(chosen(shares, deployment="d", session_id="", rng=rng) for _ in range(4000))
    assert 2880 < counts["a"] < 3120
