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


LONG = 2000


def test_a_tenant_that_is_alone_gets_larger_steps_but_none_that_a_newcomer_would_wait_for_long() -> None:
    shares = PromptShares(50, alone_tokens=300)
    for _ in range(3):
        shares.begin_step({"flood": LONG})
        assert [shares.take("flood", 200, at_least=0) for _ in range(3)] == [200, 100, 0]


def flooded(shares: PromptShares, *others: str, steps: int = 100) -> list[int]:
    """Tokens that a flood of long prompts gets in each step, next to tenants that decode."""
    given = []
    for _ in range(steps):
        shares.begin_step({"flood": 8 * LONG, **dict.fromkeys(others, 0)})
        given.append(sum(shares.take("flood", LONG, at_least=0) for _ in range(8)))
    return given


def test_long_prompts_next_to_answers_of_others_get_the_tokens_of_a_step_and_no_more() -> None:
    first, *given = flooded(PromptShares(60), "other", "third")
    assert first == 60 + SAVED_STEPS * 20
    assert set(given) == {60}


def test_two_floods_share_the_tokens_of_a_step() -> None:
    shares = PromptShares(60)
    for step in range(50):
        shares.begin_step({"a": LONG, "b": LONG, "c": 0})
        assert [shares.take(name, LONG, at_least=0) for name in "ab"] == ([190, 190] if step == 0 else [30, 30])


def test_a_short_prompt_of_one_that_asks_now_and_then_is_computed_at_once() -> None:
    shares = PromptShares(60)
    for step in range(60):
        wanted = 240 if step % 10 == 0 else 0
        shares.begin_step({"flood": LONG, "other": wanted})
        shares.take("flood", LONG, at_least=0)
        assert shares.take("other", wanted, at_least=0) == wanted


def test_an_adapter_is_never_left_without_a_token() -> None:
    shares = PromptShares(60)
    for _ in range(30):
        shares.begin_step({"flood": LONG, "other": 0})
        shares.take("flood", LONG, at_least=0)
        assert shares.take("flood", LONG, at_least=1) == 1
        assert shares.take("flood", LONG, at_least=0) == 0
