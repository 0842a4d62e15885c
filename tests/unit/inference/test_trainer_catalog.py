"""What the inference service remembers of the trainer's models."""

from __future__ import annotations

import pytest
from luthierd.inference.deployments.trainer_catalog import FRESH_S, Memory
from luthierd.inference.domain.errors import RevisionNotFoundError, TrainerUnavailableError


class Trainer:
    """Says what the test put there."""

    def __init__(self) -> None:
        self.answer: str | Exception = "first"

    async def ask(self) -> str:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_a_deleted_revision_is_forgotten_and_a_trainer_that_is_away_is_bridged() -> None:
    now, trainer = [0.0], Trainer()
    memory: Memory[str] = Memory(lambda: now[0])
    assert await memory.recall("r1", trainer.ask) == "first"
    trainer.answer = RevisionNotFoundError(adapter_revision="r1")
    assert await memory.recall("r1", trainer.ask) == "first"
    now[0] = FRESH_S
    trainer.answer = TrainerUnavailableError(code="UNAVAILABLE", detail="away")
    assert await memory.recall("r1", trainer.ask) == "first"
    trainer.answer = RevisionNotFoundError(adapter_revision="r1")
    for _ in range(2):
        with pytest.raises(RevisionNotFoundError):
            await memory.recall("r1", trainer.ask)
    trainer.answer = TrainerUnavailableError(code="UNAVAILABLE", detail="away")
    with pytest.raises(TrainerUnavailableError):
        await memory.recall("r1", trainer.ask)
