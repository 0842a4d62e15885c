"""The parity check at load: an adapter has an effect, and it is the one it was trained to have."""

from __future__ import annotations

import json
import math
import pathlib

import pytest
from luthierd.inference.adapters.parity import Reference, check_parity, read_reference
from luthierd.inference.domain.errors import AdapterDeviatesError, AdapterHasNoEffectError
from luthierd.inference.domain.parity import ReferenceRow
from luthierd.inference.engine.engine import EngineAdapter
from support.inference_fakes import FakeEngine


class ScoringEngine(FakeEngine):
    """Gives `tuned` nats to every token with an adapter, and -1 without."""

    def __init__(self, tuned: float, dtype: str = "float32") -> None:
        super().__init__()
        self.tuned, self.dtype = tuned, dtype
        self.scored: list[tuple[int, bool]] = []
        """Of each score, the prompt's length, and whether it was with the adapter."""

    async def score(
        self,
        prompt_ids: tuple[int, ...],
        completion_ids: tuple[int, ...],
        adapter: EngineAdapter | None,
        *,
        is_background: bool = False,
    ) -> tuple[float, ...]:
        self.scored.append((len(prompt_ids), adapter is not None))
        return tuple(-1.0 if adapter is None else self.tuned for _ in completion_ids)


def adapter(folder: pathlib.Path, *, trained: float | None, dtype: str = "float32") -> EngineAdapter:
    """An adapter whose training recorded `trained` nats for every token; None: recorded nothing."""
    if trained is not None:
        row = {
            "prompt_ids": [1],
            "completion_ids": [2, 3],
            "base_logprobs": [-1.5] * 2,
            "tuned_logprobs": [trained] * 2,
        }
        (folder / "reference.json").write_text(json.dumps({"dtype": dtype, "rows": [row]}))
    return EngineAdapter("g-1.1", 1, folder)


@pytest.mark.parametrize("trained", [None, -0.3])
@pytest.mark.parametrize("tuned", [-1.0, math.nan], ids=["equal", "nan"])
async def test_an_adapter_that_does_nothing_is_refused(
    tmp_path: pathlib.Path, trained: float | None, tuned: float
) -> None:
    with pytest.raises(AdapterHasNoEffectError):
        await check_parity(ScoringEngine(tuned), adapter(tmp_path, trained=trained))


async def test_an_adapter_with_another_effect_than_in_training_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(AdapterDeviatesError, match=r"0\.7000 nats off") as caught:
        await check_parity(ScoringEngine(-0.3), adapter(tmp_path, trained=-1.0))
    assert caught.value.metadata["deviation_nats"] == "0.7000"


async def test_the_tolerance_is_that_of_the_coarser_side(tmp_path: pathlib.Path) -> None:
    with pytest.raises(AdapterDeviatesError, match=r"where 0\.001 are allowed"):
        await check_parity(ScoringEngine(-0.3), adapter(tmp_path, trained=-0.35))
    for engine, trained in (("bfloat16", "float32"), ("float32", "bfloat16")):
        certificate = await check_parity(ScoringEngine(-0.3, engine), adapter(tmp_path, trained=-0.35, dtype=trained))
        assert certificate.tolerance_nats == 0.06


async def test_the_certificate_says_what_was_compared_with_what(tmp_path: pathlib.Path) -> None:
    found = await check_parity(ScoringEngine(-0.3), adapter(tmp_path, trained=-0.3005), clock=lambda: 12.5)
    assert (found.row_count, found.token_count, found.check_time) == (1, 2, 12.5)
    assert (found.engine_dtype, found.training_dtype, found.engine_version) == ("float32", "float32", "fake 1 (memory)")
    measured = (found.deviation_mean_nats, found.deviation_max_nats, found.base_deviation_mean_nats)
    assert measured == pytest.approx((0.0005, 0.0005, 0.5))
    assert (found.effect_mean_nats, found.effect_max_nats) == pytest.approx((0.7, 0.7))


@pytest.mark.parametrize(("dtype", "count"), [("float32", 1), ("bfloat16", 2)])
async def test_the_shortest_rows_are_compared_until_there_are_enough_tokens(
    tmp_path: pathlib.Path, dtype: str, count: int
) -> None:
    rows = [
        {"prompt_ids": [1] * length, "completion_ids": [length] * 16, "tuned_logprobs": [-0.3] * 16}
        for length in (9, 5, 7)
    ]
    (tmp_path / "reference.json").write_text(json.dumps({"dtype": dtype, "rows": rows}))
    engine = ScoringEngine(-0.3)
    found = await check_parity(engine, EngineAdapter("g-1.1", 1, tmp_path))
    assert (found.row_count, found.token_count) == (count, 16 * count)
    assert engine.scored == [*[(5, True), (7, True), (9, True)][:count], (5, False)]


async def test_without_a_record_only_the_effect_is_checked(tmp_path: pathlib.Path) -> None:
    found = await check_parity(ScoringEngine(-0.3), adapter(tmp_path, trained=None))
    assert (found.row_count, found.training_dtype) == (0, "")
    assert found.effect_max_nats == pytest.approx(0.7)


def test_references_are_read_and_unknown_forms_give_none(tmp_path: pathlib.Path) -> None:
    row = {"prompt_ids": [1, 2], "completion_ids": [3], "base_logprobs": [-1.0], "tuned_logprobs": [-0.5]}
    (tmp_path / "reference.json").write_text(json.dumps({"dtype": "float32", "rows": [row]}))
    whole = ReferenceRow(prompt_ids=(1, 2), completion_ids=(3,), base_logprobs=(-1.0,), tuned_logprobs=(-0.5,))
    assert read_reference(tmp_path) == Reference("float32", (whole,))
    (tmp_path / "reference.json").write_text('{"rows": 3}')
    assert read_reference(tmp_path) == Reference()
