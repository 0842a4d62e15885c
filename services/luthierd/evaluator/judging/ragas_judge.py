"""Our judge in the form that RAGAS's metrics ask: two methods, and every failure keeps its name."""

from __future__ import annotations

from typing import TypeVar

import pydantic

from luthierd.evaluator.judging.judge import Judge
from luthierd.evaluator.scorers.ragas_metrics import InstructorBaseRagasLLM

T = TypeVar("T", bound=pydantic.BaseModel)


class RagasJudge(InstructorBaseRagasLLM):  # type: ignore[misc]  # RAGAS ships no types
    """RAGAS's prompts, through `Judge`."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def generate(self, prompt: str, response_model: type[T]) -> T:
        """Not used: every metric is awaited."""
        raise NotImplementedError("await agenerate")

    async def agenerate(self, prompt: str, response_model: type[T]) -> T:
        """JudgeError."""
        return await self._judge.ask(prompt, response_model, template=f"ragas:{response_model.__name__}")
