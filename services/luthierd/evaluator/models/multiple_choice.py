"""Choosing instead of writing: the answer is the choice that the model finds likeliest, token by token.

A choice's score is the sum of its tokens' log-probabilities over their number (length-normalised): a sum alone would
prefer short choices. The order of the choices says nothing: equal scores go to the first by alphabet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from luthierd.errors import FailedPreconditionError
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Message, Row, TaskSpec
from luthierd.evaluator.models.generate import Reply


class RowHasNoChoicesError(FailedPreconditionError):
    """A row cannot be answered by multiple choice."""

    reason = "ROW_HAS_NO_CHOICES"

    def __init__(self, row_id: str, kind: str, problem: str) -> None:
        super().__init__(
            f"row {row_id} {problem}, which a task {kind} needs; add `choices` to the rows, the reference among them",
            metadata={"row_id": row_id, "task": kind, "problem": problem},
        )


@dataclass(frozen=True)
class Likelihood:
    """How likely a text is. `total_logprob` is the sum over its `token_count` tokens."""

    total_logprob: float
    token_count: int
    prompt_tokens: int
    loaded_adapter: str

    @property
    def for_each_token(self) -> float:
        return self.total_logprob / max(1, self.token_count)


class Likelihoods(Protocol):
    """The inference service; see `peers.InferenceModel`."""

    async def likelihood(self, arm: Arm, messages: Sequence[Message], completion: str) -> Likelihood: ...


@dataclass(frozen=True)
class LikelihoodChooser:
    """See `generate.Chooser`. The tokens of a reply are those that were read: of every choice, prompt included."""

    inference: Likelihoods
    now: Callable[[], float] = time.monotonic

    async def choose(self, arm: Arm, messages: Sequence[Message], choices: Sequence[str]) -> Reply:
        """The likeliest choice. Raises what inference raises: a choice that cannot be scored fails the row."""
        asked = self.now()
        found = {choice: await self.inference.likelihood(arm, messages, choice) for choice in sorted(choices)}
        best = max(found, key=lambda choice: found[choice].for_each_token)
        return Reply(
            text=best,
            ttft_s=self.now() - asked,
            prompt_tokens=sum(one.prompt_tokens + one.token_count for one in found.values()),
            completion_tokens=0,
            finish_reason="chosen",
            loaded_adapter=found[best].loaded_adapter,
        )


def check_choices(rows: Sequence[Row], task: TaskSpec) -> None:
    """RowHasNoChoicesError for a row whose reference is not among at least two choices, all different."""
    for row in rows:
        if len(set(row.choices)) < 2 or len(set(row.choices)) < len(row.choices):
            raise RowHasNoChoicesError(row.id, task.kind, "has no two different choices")
        if row.reference not in row.choices:
            raise RowHasNoChoicesError(row.id, task.kind, "has a reference that is not among its choices")
