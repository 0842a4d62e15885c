"""Rows, answers and fakes for the evaluator's tests."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from luthierd.errors import LuthierError
from luthierd.evaluator.asking import Reply
from luthierd.evaluator.domain import Answer, Arm, Message, Row


def reference_of(summary: str, module: str) -> str:
    return json.dumps({"summary": summary, "module": module})


def row(number: int, *, group: str | None = None, split: str = "holdout") -> Row:
    """A docstring row: three rows a group, two modules."""
    module = "linalg" if number % 2 else "stats"
    return Row(
        id=f"{split}-{number}",
        group=group or f"{split}-group-{number // 3}",
        label=module,
        prompt=(Message("user", f"Describe as JSON.\ndef {split}_function_{number}(x): return x + {number}"),),
        reference=reference_of(f"Return {split} value number {number} of the input.", module),
    )


def rows(count: int, *, split: str = "holdout") -> list[Row]:
    return [row(number, split=split) for number in range(count)]


def answer(arm: Arm, row_id: str, text: str, *, start_s: float = 0.0, total_s: float = 1.0) -> Answer:
    return Answer(arm, row_id, text, start_s, total_s / 4, total_s, 100, 20, "stop", "base")


class HashingEmbedder:
    """Unit vectors of hashed words: equal texts are equal, texts with common words are near. Counts its batches."""

    digest = "0" * 64

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.batches.append(len(texts))
        vectors = np.zeros((len(texts), 64), dtype=np.float32)
        for position, text in enumerate(texts):
            for word in text.lower().split() or [""]:
                vectors[position, int(hashlib.sha256(word.encode()).hexdigest(), 16) % 64] += 1.0
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


class MemoryJournal:
    """Answers in a list; the first to a (arm, row) stays."""

    def __init__(self) -> None:
        self.kept: dict[tuple[Arm, str], Answer] = {}

    async def answers(self) -> Sequence[Answer]:
        return list(self.kept.values())

    async def add(self, answer: Answer) -> None:
        self.kept.setdefault((answer.arm, answer.row_id), answer)


class ScriptedAnswerer:
    """Answers by a function of (arm, messages); counts calls and how many ran at once."""

    def __init__(self, script: Callable[[Arm, Sequence[Message]], str | LuthierError]) -> None:
        self._script = script
        self.calls: list[tuple[Arm, tuple[Message, ...]]] = []
        self.running = 0
        self.most_running = 0

    async def ask(self, arm: Arm, messages: Sequence[Message], *, max_tokens: int) -> Reply:
        self.calls.append((arm, tuple(messages)))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0)
            said = self._script(arm, messages)
        finally:
            self.running -= 1
        if isinstance(said, LuthierError):
            raise said
        return Reply(said, 0.01, 50, len(said.split()), "stop", "base")


class ManualClock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.time_s = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time_s += seconds
        await asyncio.sleep(0)
