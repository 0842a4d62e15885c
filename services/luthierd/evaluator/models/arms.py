"""The arms: what each one says to the model. The question is the row's own; only what stands before it differs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import DEFAULT_INSTRUCTION
from luthierd.evaluator.domain.retrieval import Passage
from luthierd.evaluator.domain.rows import Message, Row
from luthierd.evaluator.models.shots import MAX_QUESTION_CHARACTERS, shot_turns

# Queries of several arms share the engine for a window where turns meet. Shorter turns mean more of that: every latency
# drifts to the mean of the arms (docs/decisions/0016). Longer ones compare an arm's minutes with another one's.
TURN_WINDOWS = 4


@dataclass(frozen=True)
class Query:
    """One thing to ask: an arm, a row, and the conversation that ends with the row's question."""

    arm: Arm
    row: Row
    messages: tuple[Message, ...]
    shown_row_ids: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    """Not empty: the answer is that of them with the highest log-probability for each token (`multiple_choice.py`)."""
    temperature: float = 0.0
    """0 is greedy; above it `seed` makes the draw the same again."""
    seed: int = 0


@dataclass(frozen=True)
class ArmPlan:
    """What the arms are built from. `retrieved` maps a row's id to its examples, `passages` to its pieces of documents,
    nearest first; at most one of them is filled.
    """

    instruction: str = DEFAULT_INSTRUCTION
    fixed: Sequence[Row] = ()
    retrieved: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    passages: Mapping[str, Sequence[Passage]] = field(default_factory=dict)
    shot_characters: int = MAX_QUESTION_CHARACTERS

    def query(self, arm: Arm, row: Row) -> Query:
        """What `arm` asks about `row`. The adapter arms leave the instruction out: the adapter was not
        trained with it. Documents come with the question, and leave the examples of RAG to be the fixed ones.
        """
        shots: Sequence[Row] = ()
        passages: Sequence[Passage] = ()
        if arm.uses_retrieval:
            # The nearest example stands last, beside the question.
            shots = tuple(reversed(self.retrieved.get(row.id, ())))
            passages = self.passages.get(row.id, ())
        if arm is Arm.PROMPTED or (arm is Arm.RAG and self.passages):
            shots = self.fixed
        turns = shot_turns(shots, max_characters=self.shot_characters)
        instructed = arm in (Arm.PROMPTED, Arm.RAG)
        return Query(
            arm=arm,
            row=row,
            messages=_conversation(with_documents(row.prompt, passages), turns, self.instruction if instructed else ""),
            shown_row_ids=tuple(dict.fromkeys([*(shot.id for shot in shots), *(piece.id for piece in passages)])),
        )


def in_turns(arms: Sequence[Arm], rows: Sequence[Row], *, window: int) -> Iterator[tuple[Arm, Row]]:
    """The order of asking: arms take turns of TURN_WINDOWS windows of rows, so that what changes about the machine
    meets all of them. The turns of an arm are equally long, its rows in order.
    """
    turn_count = max(1, round(len(rows) / (TURN_WINDOWS * window)))
    ends = [len(rows) * turn // turn_count for turn in range(turn_count + 1)]
    for start, end in itertools.pairwise(ends):
        for arm in arms:
            for row in rows[start:end]:
                yield arm, row


def with_documents(prompt: Sequence[Message], passages: Sequence[Passage]) -> Sequence[Message]:
    """The prompt with documents before its last question, in the form in which an adapter for retrieval is trained
    (docs/retrieval.md). Without documents the prompt as it is.
    """
    if not passages:
        return prompt
    numbered = [
        f"[{number}] {passage.source}\n{passage.text}" if passage.source else f"[{number}] {passage.text}"
        for number, passage in enumerate(passages, start=1)
    ]
    last = max((at for at, turn in enumerate(prompt) if turn.role == "user"), default=None)
    if last is None:
        return prompt
    context = "Documents:\n\n" + "\n\n".join(numbered) + f"\n\nQuestion:\n{prompt[last].content}"
    return [*prompt[:last], Message("user", context), *prompt[last + 1 :]]


def _conversation(prompt: Sequence[Message], turns: Sequence[Message], instruction: str) -> tuple[Message, ...]:
    """System turn (the instruction joined to the row's own), examples, the rest of the row's prompt."""
    own_system = [turn.content for turn in prompt if turn.role == "system"]
    system = "\n\n".join(part for part in [instruction, *own_system] if part)
    rest = [turn for turn in prompt if turn.role != "system"]
    opening = [Message("system", system)] if system else []
    return (*opening, *turns, *rest)
