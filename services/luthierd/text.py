"""When texts count as alike: the one rule of curation's near duplicates, the evaluator's leakage check, and hints."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence

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


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that looks most like `word`, for "did you mean"; empty if none looks like it."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)), "")
