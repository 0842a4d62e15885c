"""When two texts count as alike."""

from __future__ import annotations

import pytest
from luthierd.text import jaccard, shingles, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,  WORLD!\nbye", ["hello", "world", "bye"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("ﬁne ｗｉｄｅ ①", ["fine", "wide", "1"]),
        ("cafe\u0301 caf\u00e9", ["café", "café"]),
        ("?!", []),
        ("", []),
    ],
)
def test_words_have_no_case_width_or_punctuation(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_shingles_are_runs_of_three_words() -> None:
    assert shingles(["a", "b", "c", "d"]) == {"a b c", "b c d"}
    assert shingles(["a", "b"]) == shingles([]) == frozenset()


def test_similarity_is_the_share_of_common_shingles() -> None:
    left, right = shingles(list("abcde")), shingles(list("abcdx"))
    assert jaccard(left, right) == 2 / 4
    assert jaccard(left, left) == 1
    assert jaccard(left, frozenset()) == jaccard(frozenset(), frozenset()) == 0
