"""What a body may take, before the engine's application has read it."""

from __future__ import annotations

from typing import Any

import pytest
from luthierd.inference.http.body import estimate

WINDOW = 1000
CHAT = {"messages": [{"role": "user", "content": "x" * 360}]}


@pytest.mark.parametrize(
    ("body", "max_answer_token_count", "slot_count"),
    [
        (CHAT | {"max_tokens": 50}, 50, 1),
        (CHAT | {"max_completion_tokens": 40, "max_tokens": 50}, 40, 1),
        (CHAT | {"max_tokens": 50, "n": 3}, 150, 3),
        ({"prompt": "x" * 398}, 16, 1),
        ({"prompt": ["a", "b", "c", "d"], "max_tokens": 10}, 40, 4),
        ({"prompt": [[1, 2], [3]], "max_tokens": 10, "n": 2}, 40, 4),
        ({"prompt": [1, 2, 3], "max_tokens": 10}, 10, 1),
        (CHAT | {"max_tokens": 10**9}, None, 1),
        (CHAT, None, 1),
    ],
)
def test_a_body_is_taken_at_its_word_and_at_most_for_the_window(
    body: dict[str, Any], max_answer_token_count: int | None, slot_count: int
) -> None:
    found = estimate(body, WINDOW)
    assert found["slot_count"] == slot_count
    assert found["max_answer_token_count"] == (max_answer_token_count or WINDOW - found["prompt_token_count"])


def test_a_prompt_counts_by_its_length_and_at_most_as_the_window() -> None:
    assert 95 <= estimate(CHAT, WINDOW)["prompt_token_count"] <= 110
    assert estimate({"prompt": "x" * 10**6}, WINDOW)["prompt_token_count"] == WINDOW


@pytest.mark.parametrize(
    "body", [{}, {"prompt": []}, {"messages": "no list"}, {"prompt": "x", "n": -4}, {"prompt": "x", "max_tokens": "y"}]
)
def test_what_is_not_well_formed_counts_as_little_and_is_left_to_the_application(body: dict[str, Any]) -> None:
    assert estimate(body, WINDOW)["slot_count"] == 1
