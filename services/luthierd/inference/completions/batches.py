"""Batches: several prompts under one lease, so that one loaded adapter answers all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from luthierd.errors import LuthierError
from luthierd.inference.completions.completions import Answers, Leased, Prompt, check_structure, whole
from luthierd.inference.domain.completion import Answer, Origin, Sampling, Target
from luthierd.inference.domain.errors import EngineUnavailableError

MAX_PARALLEL = 8
"""Prompts of one batch in the engine at a time. A batch counts as one answer in flight; it must not fill the engine."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What came of each prompt, in their order; each answer's id is the batch's and its place, `r-....0`."""

    results: tuple[Answer | LuthierError, ...]
    origin: Origin
    response_id: str


class Batches:
    """The use case of batches."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def answer(
        self, target: Target, prompts: Sequence[Prompt], sampling: Sampling, *, tenant: str, session_id: str = ""
    ) -> Batch:
        """Answers all prompts. EngineUnavailableError if none could be because the engine was lost."""
        began = self._answers.clock()
        async with self._answers.leased(target, tenant=tenant, session_id=session_id) as leased:
            await check_structure(leased.engine, sampling)
            places = asyncio.Semaphore(MAX_PARALLEL)

            async def one(index: int, prompt: Prompt) -> Answer | LuthierError:
                async with places:
                    return await self._result(leased, prompt, sampling, began=began, index=index)

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(index, prompt)) for index, prompt in enumerate(prompts)]
        results = tuple(task.result() for task in tasks)
        lost = [result for result in results if isinstance(result, EngineUnavailableError)]
        if len(lost) == len(results):
            raise lost[0]
        return Batch(results=results, origin=leased.origin, response_id=leased.response_id)

    async def _result(
        self, leased: Leased, prompt: Prompt, sampling: Sampling, *, began: float, index: int
    ) -> Answer | LuthierError:
        response_id = f"{leased.response_id}.{index}"
        try:
            return await whole(self._answers.pieces(leased, prompt, sampling, began=began, response_id=response_id))
        except LuthierError as error:
            return error
