"""How much of a proof goes into a step."""

from __future__ import annotations

import pytest
from luthierd.inference.engine.slices import (
    DECODING_SHARE,
    PROMPT_SHARE,
    STEP_TOKENS,
    Step,
    slice_tokens,
    usual_longest,
)


def test_a_proof_that_is_alone_is_computed_at_once() -> None:
    assert slice_tokens(1, other_count=0, other_tokens=0, longest_tokens=8) == 0
    assert slice_tokens(3, other_count=0, other_tokens=0, longest_tokens=0) == 0


@pytest.mark.parametrize("others", [1, 8, 16, 48])
def test_beside_answers_alone_a_proof_makes_a_step_at_most_a_quarter_longer(others: int) -> None:
    found = slice_tokens(1, other_count=others, other_tokens=others, longest_tokens=others)
    assert 0.2 <= found / (STEP_TOKENS + others) <= 1 / DECODING_SHARE


def test_answers_are_used_to_the_length_that_two_in_a_hundred_of_their_gaps_have() -> None:
    decoding = [Step(8, 8)] * 90
    assert usual_longest([*decoding, *[Step(48, 8)] * 10]) == 48
    assert usual_longest([*decoding, Step(300, 1), *[Step(48, 8)] * 9]) == 48  # one answer felt it
    assert usual_longest([*decoding, Step(280, 0)]) == 8  # nobody did
    assert usual_longest([Step(280, 0)]) == usual_longest([]) == 0


def test_a_step_is_filled_up_to_what_answers_are_used_to() -> None:
    assert slice_tokens(1, other_count=8, other_tokens=8, longest_tokens=208) == 200
    assert slice_tokens(1, other_count=8, other_tokens=120, longest_tokens=208) == 88


@pytest.mark.parametrize("prompts", [40, 512, 8192])
def test_a_step_that_is_the_longest_of_late_grows_little(prompts: int) -> None:
    found = slice_tokens(1, other_count=8, other_tokens=8 + prompts, longest_tokens=8 + prompts)
    assert 1 <= found <= (STEP_TOKENS + 8 + prompts) / PROMPT_SHARE


def test_proofs_share_a_slice_and_none_goes_without() -> None:
    assert slice_tokens(2, other_count=8, other_tokens=8, longest_tokens=48) == 20
    assert slice_tokens(50, other_count=8, other_tokens=8, longest_tokens=8) == 1
