"""Contradictions: one prompt with several answers. Reported, not resolved: people know which answer is right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from luthierd.curation.domain import Message, Row


def find_contradictions(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows with equal prompts and different completions, by prompt, in the order of `rows`."""
    by_prompt: dict[tuple[Message, ...], list[Row]] = defaultdict(list)
    for row in rows:
        by_prompt[row.prompt].append(row)
    return [same for same in by_prompt.values() if len({row.completion for row in same}) > 1]
