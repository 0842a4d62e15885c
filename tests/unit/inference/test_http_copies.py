"""Which OpenAI requests can be asked of a mirror, and how."""

from __future__ import annotations

from typing import Any

import pytest
from luthierd.inference.domain import Sampling
from luthierd.inference.http_copies import sampling_of


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"messages": []}, Sampling(max_tokens=512, temperature=1.0)),
        ({"prompt": "x", "stop": None}, Sampling(max_tokens=16, temperature=1.0)),
        (
            {"messages": [], "max_completion_tokens": 5, "max_tokens": 9, "temperature": 0, "stop": "a", "n": 1},
            Sampling(max_tokens=5, stop=("a",)),
        ),
        ({"messages": [], "stop": ["a", "b"], "seed": 3, "top_p": 0.5, "presence_penalty": 0.0},
         Sampling(max_tokens=512, temperature=1.0, stop=("a", "b"), seed=3, top_p=0.5)),
    ],
)  # fmt: skip
def test_a_copy_is_sampled_as_the_request_was(body: dict[str, Any], expected: Sampling) -> None:
    assert sampling_of(body, window=512) == expected


@pytest.mark.parametrize(
    "more",
    [{"tools": []}, {"response_format": {"type": "json_object"}}, {"frequency_penalty": 0.5}, {"logit_bias": {}}],
)
def test_what_a_copy_could_not_be_asked_is_not_copied(more: dict[str, Any]) -> None:
    assert sampling_of({"messages": [], **more}, window=512) is None
