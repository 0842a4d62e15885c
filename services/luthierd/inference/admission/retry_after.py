"""When refused callers should retry: one after the other, as places become free.

With the same delay, all of them would retry at once and all but one would be refused again: 32 callers over a limit
caused 220 refusals a second, which took CPU time from everyone else's answers.
"""

from __future__ import annotations

from collections.abc import Callable

MEAN_DECAY = 0.1
"""Weight of the last call in the mean duration of calls: roughly the last twenty calls."""
MIN_RETRY_S = 0.1
"""The shortest delay."""


class RetryAfter:
    """Places promised to refused callers, by tenant; "" for the whole server."""

    def __init__(self, clock: Callable[[], float], *, mean_call_s: float = 1.0) -> None:
        """`mean_call_s`: the initial estimate."""
        self._clock, self._mean_call_s = clock, mean_call_s
        self._promised_until: dict[str, float] = {}

    def call_ended(self, duration_s: float) -> None:
        """A call freed its place after so many seconds."""
        self._mean_call_s += MEAN_DECAY * (duration_s - self._mean_call_s)

    def next_s(self, whose: str, *, count: int) -> float:
        """Seconds until the next place not yet promised to another caller, with `count` calls in flight.

        At most the mean duration of a call, after which all calls now in flight have ended: callers that retry early,
        or never, delay the others by at most that.
        """
        now = self._clock()
        self._promised_until = {key: until for key, until in self._promised_until.items() if until > now}
        after_s = self._promised_until.get(whose, now) - now + self._mean_call_s / max(1, count)
        delay_s = max(MIN_RETRY_S, min(self._mean_call_s, after_s))
        self._promised_until[whose] = now + delay_s
        return delay_s
