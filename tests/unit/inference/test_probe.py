"""The proof at load: an adapter does something, and what it was trained to do."""

from __future__ import annotations

import json
import pathlib

import pytest
from inference_parts import FakeEngine
from luthierd.inference.engine_host import EngineAdapter
from luthierd.inference.errors import AdapterDeviatesError, AdapterHasNoEffectError
from luthierd.inference.probe import probe


class ScoringEngine(FakeEngine):
    """Gives `tuned` nats to every token with an adapter, and -1 without."""

    def __init__(self, tuned: float) -> None:
        super().__init__()
        self.tuned = tuned

    async def score(
        self, prompt_ids: tuple[int, ...], completion_ids: tuple[int, ...], adapter: EngineAdapter | None
    ) -> tuple[float, ...]:
        return tuple(-1.0 if adapter is None else self.tuned for _ in completion_ids)


def adapter(folder: pathlib.Path, *, trained: float | None) -> EngineAdapter:
    """An adapter whose training recorded `trained` nats for every token; None: recorded nothing."""
    if trained is not None:
        row = {"prompt_ids": [1], "completion_ids": [2, 3], "base_logprobs": [-1, -1], "tuned_logprobs": [trained] * 2}
        (folder / "reference.json").write_text(json.dumps({"rows": [row]}))
    return EngineAdapter("g-1.1", 1, folder)


@pytest.mark.parametrize("trained", [None, -0.3])
async def test_an_adapter_that_does_nothing_is_refused(tmp_path: pathlib.Path, trained: float | None) -> None:
    with pytest.raises(AdapterHasNoEffectError):
        await probe(ScoringEngine(-1.0), adapter(tmp_path, trained=trained))


async def test_an_adapter_with_another_effect_than_in_training_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(AdapterDeviatesError, match=r"0\.70 nats off"):
        await probe(ScoringEngine(-0.3), adapter(tmp_path, trained=-1.0 + 0.0))


@pytest.mark.parametrize("trained", [None, -0.35])
async def test_an_adapter_that_does_what_it_should_passes(tmp_path: pathlib.Path, trained: float | None) -> None:
    await probe(ScoringEngine(-0.3), adapter(tmp_path, trained=trained))
