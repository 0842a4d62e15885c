"""When two texts count as alike: the one rule of curation's near duplicates and of the evaluator's leakage check."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

SHINGLE_WORDS = 3

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text without case, punctuation and line breaks: runs of word characters after NFKC and casefold.

    Scripts that put no spaces between words give one long word a sentence.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def shingles(text_words: Sequence[str]) -> frozenset[str]:
    """The runs of `SHINGLE_WORDS` words, joined by blanks; none in a shorter text."""
    starts = range(len(text_words) - SHINGLE_WORDS + 1)
    return frozenset(" ".join(text_words[start : start + SHINGLE_WORDS]) for start in starts)


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Size of the intersection over size of the union; 0 for two empty sets."""
    common = len(left & right)
    return common / (len(left) + len(right) - common) if common else 0.0
