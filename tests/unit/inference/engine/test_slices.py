"""How much of a parity check goes into a step."""

from __future__ import annotations

import pytest
from luthierd.inference.engine.slices import DECODING_SHARE, PROMPT_SHARE, STEP_TOKENS, slice_tokens


def test_a_proof_that_is_alone_is_computed_at_once() -> None:
    assert slice_tokens(1, other_count=0, other_tokens=0) == 0
    assert slice_tokens(3, other_count=0, other_tokens=0) == 0


@pytest.mark.parametrize("others", [1, 8, 16, 48])
def test_beside_answers_a_proof_makes_a_step_at_most_a_quarter_longer(others: int) -> None:
    found = slice_tokens(1, other_count=others, other_tokens=others)
    assert 0.2 <= found / (STEP_TOKENS + others) <= 1 / DECODING_SHARE


@pytest.mark.parametrize("prompts", [40, 512, 8192])
def test_a_step_with_prompts_which_is_long_already_grows_little(prompts: int) -> None:
    found = slice_tokens(1, other_count=8, other_tokens=8 + prompts)
    assert 1 <= found <= (STEP_TOKENS + 8 + prompts) / PROMPT_SHARE


def test_proofs_share_a_slice_and_none_goes_without() -> None:
    assert slice_tokens(1, other_count=8, other_tokens=8) == 9
    assert slice_tokens(2, other_count=8, other_tokens=8) == 4
    assert slice_tokens(50, other_count=8, other_tokens=8) == 1
