"""How much of a proof goes into a step."""

from __future__ import annotations

from luthierd.inference.engine.slices import SLICE_TOKENS, slice_tokens


def test_a_proof_that_is_alone_is_computed_at_once() -> None:
    assert slice_tokens(1, other_count=0) == 0
    assert slice_tokens(3, other_count=0) == 0


def test_beside_others_a_proof_gets_a_slice_of_every_step_however_many_they_are() -> None:
    assert slice_tokens(1, other_count=1) == slice_tokens(1, other_count=48) == SLICE_TOKENS


def test_proofs_share_a_slice_and_none_goes_without() -> None:
    assert slice_tokens(2, other_count=1) == SLICE_TOKENS // 2
    assert slice_tokens(3, other_count=1) * 3 <= SLICE_TOKENS
    assert slice_tokens(SLICE_TOKENS + 1, other_count=1) == 1
