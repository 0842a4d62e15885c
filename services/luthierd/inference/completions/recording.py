"""What is recorded of an answer while it is made, for feedback."""

from __future__ import annotations

import contextlib
from typing import Protocol

from luthierd.inference import metrics
from luthierd.inference.domain.completion import Finish, Origin, Prompt

MAX_TEXT_CHARACTERS = 256 * 1024
"""Longer prompts with their answers are not captured, to keep the rows of files readable."""


class Recording:
    """One answer while it is made: `add` its texts, then `finish` it."""

    def __init__(self, *, wants_text: bool) -> None:
        self._parts: list[str] | None = [] if wants_text else None
        self._character_count = 0
        self.outcome: Finish | None = None
        self.is_discarded = False
        """There was no answer: the request was refused."""

    def add(self, text: str) -> None:
        """The next part of the answer."""
        if self._parts is not None:
            self._character_count += len(text)
            if self._character_count > MAX_TEXT_CHARACTERS:
                self.drop_text()
            else:
                self._parts.append(text)

    def drop_text(self) -> None:
        """The answer is too long to be captured."""
        if self._parts is not None:
            self._parts = None
            metrics.captures_dropped.labels("too_long").inc()

    def finish(self, outcome: Finish) -> None:
        """How the answer ended. Without it, it is recorded as aborted."""
        self.outcome = outcome

    @property
    def completion(self) -> str | None:
        """The whole answer; None if it is aborted, not wanted, or too long."""
        return None if self._parts is None or self.outcome is None else "".join(self._parts)


class Recorder(Protocol):
    """Records answers."""

    def recording(
        self, response_id: str, *, tenant: str, target: str, origin: Origin, prompt: Prompt | None, mirror_of: str = ""
    ) -> contextlib.AbstractContextManager[Recording]:
        """Records the answer made in the block. `mirror_of`: the id of the live answer that it copies."""
