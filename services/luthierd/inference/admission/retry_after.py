"""When refused callers come back: one after the other, as places come free.

Told the same moment, all of them would come at once, and all but one be refused again: 32 callers over a limit made 220
refusals a second, which took the processor from the answers of everybody else.
"""

from __future__ import annotations

from collections.abc import Callable

MEAN_DECAY = 0.1
"""Weight of the last call in the mean duration of calls: about the last twenty count."""
MIN_RETRY_S = 0.1
"""Shortest delay that a caller is told."""


class Returns:
    """Places that were promised to refused callers, by whose places they are: a tenant's, or with "" all."""

    def __init__(self, clock: Callable[[], float], *, mean_call_s: float = 1.0) -> None:
        """`mean_call_s`: until calls have ended."""
        self._clock, self._mean_call_s = clock, mean_call_s
        self._promised_until: dict[str, float] = {}

    def call_ended(self, duration_s: float) -> None:
        """A call gave its place back after so long."""
        self._mean_call_s += MEAN_DECAY * (duration_s - self._mean_call_s)

    def next_s(self, whose: str, *, count: int) -> float:
        """Seconds until the next place that was promised to nobody else, with `count` calls in flight.

        At most the mean duration of a call, when all that is in flight now has ended: callers that come too early, or
        never, delay the others by no more than that.
        """
        now = self._clock()
        self._promised_until = {key: until for key, until in self._promised_until.items() if until > now}
        after_s = self._promised_until.get(whose, now) - now + self._mean_call_s / max(1, count)
        delay_s = max(MIN_RETRY_S, min(self._mean_call_s, after_s))
        self._promised_until[whose] = now + delay_s
        return delay_s
