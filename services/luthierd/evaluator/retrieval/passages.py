"""What may be retrieved: training rows as examples, or documents cut into pieces."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from luthierd.evaluator.domain.retrieval import Passage
from luthierd.evaluator.domain.rows import Row

_BREAKS = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"(?<=[.!?])\s+"), re.compile(r"\s+"))
"""Where a document may be cut, best first: between paragraphs, lines, sentences, words."""


@dataclass(frozen=True)
class Corpus:
    """Texts by position. `ids` are those of the rows or documents, several pieces of a document share one."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]

    @cached_property
    def sha256(self) -> str:
        """Over ids and texts: two corpora with one digest give one index."""
        return hashlib.sha256(json.dumps([self.ids, self.texts], ensure_ascii=False).encode()).hexdigest()


def examples_of(train: Sequence[Row]) -> Corpus:
    """Training rows, searched by their questions."""
    return Corpus(tuple(row.id for row in train), tuple(row.question for row in train))


def passages_of(rows: Sequence[Row], *, max_characters: int) -> list[Passage]:
    """Documents in pieces of at most `max_characters`: a row's answer is the text, its question says whence it is."""
    return [
        Passage(row.id, piece, row.question.strip()[:max_characters])
        for row in rows
        for piece in cut(row.reference, max_characters=max_characters)
    ]


def corpus_of(passages: Sequence[Passage]) -> Corpus:
    """Pieces of documents, searched by source and text."""
    return Corpus(
        tuple(passage.id for passage in passages), tuple(f"{passage.source}\n{passage.text}" for passage in passages)
    )


def cut(text: str, *, max_characters: int) -> list[str]:
    """`text` in pieces of at most `max_characters`, as long as they can be, cut at the best break that leaves at least
    half of that; nothing is lost but white space at the cuts.
    """
    pieces = []
    rest = text.strip()
    while len(rest) > max_characters:
        at = _cut_at(rest, max_characters)
        pieces.append(rest[:at].rstrip())
        rest = rest[at:].lstrip()
    return [*pieces, rest] if rest else pieces


def _cut_at(text: str, max_characters: int) -> int:
    for pattern in _BREAKS:
        places = [found.start() for found in pattern.finditer(text, max_characters // 2, max_characters + 1)]
        if places:
            return places[-1]
    return max_characters
