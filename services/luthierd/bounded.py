"""Time bounds for what users make us run: their patterns and schemas, and recognizers over their texts.

Python's `re` cannot be stopped and holds the interpreter meanwhile. Every pattern of a user runs through `regex`, which
takes a timeout, and without the interpreter's lock (`concurrent`), so that heartbeats go on; a library's patterns are
made to by `TimedPattern`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import regex

USUAL_S = 0.05
"""What a run may take without using up the budget: honest ones take a few milliseconds."""


class OutOfTimeError(Exception):
    """A run took longer than it may. The caller fails the row, or refuses the request, by name."""


class TimeBudget:
    """The time for many runs of one thing: a limit for each, and `total_s` for all that take longer than usual.

    When the total is used up, every further run fails at once. Not for several threads at a time. Seconds are those of
    the process on a processor, as `regex` counts them: what ends in time must not depend on what else the machine does.
    """

    def __init__(self, total_s: float, *, clock: Callable[[], float] = time.process_time) -> None:
        self._total_left_s, self._clock = total_s, clock
        self._end = clock()

    @contextlib.contextmanager
    def run(self, limit_s: float, *, usual_s: float = USUAL_S) -> Iterator[None]:
        """One run, in which `left_s` counts down. OutOfTimeError if the total is used up."""
        if self.is_spent:
            raise OutOfTimeError
        began = self._clock()
        self._end = began + min(limit_s, self._total_left_s)
        try:
            yield
        finally:
            took_s = self._clock() - began
            if took_s >= usual_s:
                self._total_left_s -= took_s

    @property
    def is_spent(self) -> bool:
        """Whether the total is used up."""
        return self._total_left_s <= 0

    @property
    def left_s(self) -> float:
        """What is left of this run. OutOfTimeError if nothing is."""
        left_s = self._end - self._clock()
        if left_s <= 0:
            raise OutOfTimeError
        return left_s

    def search(self, pattern: str, text: str) -> bool:
        """Whether a user's pattern occurs in the text. OutOfTimeError; regex.error for what is no pattern."""
        with _as_out_of_time():
            return regex.search(pattern, text, timeout=self.left_s, concurrent=True) is not None


class TimedPattern:
    """A compiled pattern as Presidio's recognizers use it, within a budget. Theirs would give up in silence."""

    def __init__(self, pattern: regex.Pattern[str], budget: TimeBudget) -> None:
        self._pattern, self._budget = pattern, budget

    def finditer(self, text: str, **_: Any) -> Iterator[regex.Match[str]]:
        """The matches. OutOfTimeError."""
        with _as_out_of_time():
            yield from self._pattern.finditer(text, timeout=self._budget.left_s, concurrent=True)


def bound_recognizers(recognizers: Iterable[Any], budget: TimeBudget) -> None:
    """Makes all patterns of Presidio's recognizers keep to a budget."""
    for recognizer in recognizers:
        for pattern in getattr(recognizer, "patterns", ()):
            pattern.compiled_with_flags = recognizer.global_regex_flags
            compiled = regex.compile(pattern.regex, recognizer.global_regex_flags)
            pattern.compiled_regex = TimedPattern(compiled, budget)


@contextlib.contextmanager
def _as_out_of_time() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise OutOfTimeError from None
