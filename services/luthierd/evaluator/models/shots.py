"""Examples in a prompt: choosing fixed ones, and writing them as turns short enough for a small context window."""

from __future__ import annotations

import random
from collections.abc import Sequence

from luthierd.evaluator.domain.rows import Message, Row

# A retrieved or fixed example shows its task, not its whole body: three of them at 240 characters are about 330 tokens
# with their answers, a fifth of a second of prefill on two cores.
MAX_QUESTION_CHARACTERS = 240


def fixed_shots(train: Sequence[Row], count: int, *, seed: int) -> list[Row]:
    """`count` training rows, each from another group while groups last: the examples of the prompted arm."""
    rng = random.Random(seed)  # noqa: S311
    order = rng.sample(list(train), len(train))
    seen: set[str] = set()
    fresh: list[Row] = []
    again: list[Row] = []
    for row in order:
        (again if row.group in seen else fresh).append(row)
        seen.add(row.group)
    return (fresh + again)[:count]


def shot_turns(shots: Sequence[Row], *, max_characters: int = MAX_QUESTION_CHARACTERS) -> list[Message]:
    """Each example as a user turn, cut at the end, and the assistant's turn."""
    turns = []
    for row in shots:
        turns.append(Message("user", shorten(row.question, max_characters)))
        turns.append(Message("assistant", row.reference))
    return turns


def shorten(text: str, max_characters: int) -> str:
    """`text`, cut at a line or word end with a mark where it is longer."""
    if len(text) <= max_characters:
        return text
    head = text[:max_characters]
    cut = max(head.rfind("\n"), head.rfind(" "))
    return (head[:cut] if cut > max_characters // 2 else head).rstrip() + " ..."
