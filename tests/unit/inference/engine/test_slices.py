"""How much of a prompt goes into a step."""

from __future__ import annotations

import pytest
from luthierd.inference.engine.slices import (
    DECODING_SHARE,
    PROMPT_SHARE,
    SAVED_STEPS,
    STEP_TOKENS,
    PromptShares,
    slice_tokens,
)


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


def test_a_tenant_that_is_alone_gets_larger_steps_but_none_that_a_newcomer_would_wait_for_long() -> None:
    shares = PromptShares(50, alone_tokens=300)
    for _ in range(3):
        shares.begin_step({"flood"})
        assert [shares.take("flood", 200, at_least=0) for _ in range(3)] == [200, 100, 0]


def test_next_to_another_tenant_long_prompts_get_their_share_of_each_step_and_no_more() -> None:
    shares, given = PromptShares(50), []
    for _ in range(100):
        shares.begin_step({"flood", "other"})
        given.append(sum(shares.take("flood", 2000, at_least=0) for _ in range(8)))
    assert sum(given) <= (SAVED_STEPS + 100) * 50
    assert set(given[1:]) == {50}


def test_a_short_prompt_of_one_that_asks_now_and_then_is_computed_at_once() -> None:
    shares = PromptShares(50)
    for step in range(40):
        shares.begin_step({"flood", "other"})
        shares.take("flood", 2000, at_least=0)
        if step % 8 == 0:
            assert shares.take("other", 300, at_least=0) == 300


def test_an_adapter_is_never_left_without_a_token() -> None:
    shares = PromptShares(50)
    for _ in range(30):
        shares.begin_step({"flood", "other"})
        shares.take("flood", 2000, at_least=0)
        assert shares.take("flood", 2000, at_least=1) == 1
        assert shares.take("flood", 2000, at_least=0) == 0
