"""Translated phrases do not come back: in documentation, contracts, docstrings, messages and help texts."""

from __future__ import annotations

import re

import pytest
from support import citations

TEXTS = (*citations.PAGES, *citations.CITING, "protos/**/*.proto", "services/**/*.html", "services/**/*.cpp")
PHRASES = {
    r"\bbeside\b": "next to, besides, with",
    r"\bof (?:its|their|your|his|an) own\b": "its own X, separate",
    r"\banew\b": "again",
    r"\b(?:for|to|of|by) whoever\b|\bwhoever (?:reads|acts|stops|needs)\b": "users who, anyone who",
    r"\bgiv(?:es?|ing|en) (?:\w+ ){0,3}free\b": "releases",
    r"\bof no (?:account|interest)\b": "does not matter",
    r"\b(?:said|says?) aloud\b": "set explicitly",
    r"\b(?:come|comes|came|coming) about\b": "happen, end",
    r"\bthere can be one of\b": "at most one",
    r"\bchoose of\b": "choose one of",
    r"\bas good as\b": "equal to",
    r"\b(?:how|is) worn\b": "overused, how often it was used",
    r"\bfurther (?:inputs?|rows?|tasks?|arms?|answerers?|answers?|questions?|models?)\b": "additional",
    r"\bthe least (?:true|effect|difference|coverage|distance|gain)\b": "the minimum",
    r"\bof theirs\b": "their",
    r"\b(?:is|are|was|were) let pass\b": "tolerated",
    r"\bheld against\b": "compared with",
    r"\bno two (?:are )?(?:alike|the same)\b": "distinct",
    r"\bis no (?:mean|metric|kind|behaviour|evidence|find)\b": "is not a",
}


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_translated_phrase_does_not_come_back(phrase: str) -> None:
    pattern = re.compile(phrase, re.IGNORECASE)
    found = [
        f"{path.relative_to(citations.ROOT)}:{number}: {line.strip()[:120]}"
        for path in citations.files(*TEXTS)
        for number, line in enumerate(citations.lines(path), 1)
        if pattern.search(line)
    ]
    assert not found, f"write {PHRASES[phrase]!r} instead:\n" + "\n".join(found)


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_phrase_is_recognised(phrase: str) -> None:
    samples = (
        "beside it; a file of its own; made anew; for whoever reads it; gives the lock free; of no account; "
        "said aloud; came about; there can be one of; choose of a, b; as good as new; how worn it is; further rows; "
        "the least gain; a friend of theirs; is let pass; held against it; no two alike; is no mean"
    )
    assert re.search(phrase, samples)
