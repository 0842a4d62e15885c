"""The arms: what each one says to the model. The question is the row's own; only what stands before it differs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from luthierd.errors import FieldViolation
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import DEFAULT_INSTRUCTION, EvaluationConfig, EvaluationInputs
from luthierd.evaluator.domain.retrieval import Passage
from luthierd.evaluator.domain.rows import Message, Row

TURN_WINDOWS = 4
"""Queries of several arms share the engine for a window where turns meet. Shorter turns mean more of that: every
latency drifts to the mean of the arms (docs/decisions/0016). Longer ones compare an arm's minutes with another
one's.
"""
MAX_QUESTION_CHARACTERS = 240
"""A retrieved or fixed example shows its task, not its whole body: three of them at 240 characters are about 330
tokens with their answers, a fifth of a second of prefill on two cores.
"""
MAX_MODEL_CHARACTERS = 256
"""Longer than any name that an endpoint has; it becomes part of reports."""


@dataclass(frozen=True)
class Target:
    """What answers: a resource name, or `endpoints/ENDPOINT/MODEL`. `sha256` is of its weights; empty for an endpoint,
    as nobody vouches for what is behind it.
    """

    name: str
    sha256: str


def target_of(arm: Arm, inputs: EvaluationInputs, config: EvaluationConfig) -> Target:
    """Who answers `arm`. The configuration has been checked: what the arm needs is there."""
    if arm is Arm.ENDPOINT:
        assert config.endpoint is not None
        return Target(f"endpoints/{config.endpoint.endpoint}/{config.endpoint.model}", "")
    spec = arm.spec
    name = getattr(config, spec.needs) if spec.needs else getattr(inputs, spec.name_of)
    return Target(name, getattr(inputs, spec.sha256_of))


def target_violations(config: EvaluationConfig) -> list[FieldViolation]:
    """What is missing or too much between the arms and the fields that they need."""
    found = []
    for arm in (arm for arm in Arm if arm.spec.needs):
        needed = arm.spec.needs
        given = bool(getattr(config, needed))
        if arm in config.arms and not given:
            found.append(FieldViolation(f"evaluation.config.{needed}", f"arm {arm} needs it"))
        if given and arm not in config.arms:
            text = f"it is for arm {arm}, which is not among the arms; add the arm or leave this out"
            found.append(FieldViolation(f"evaluation.config.{needed}", text))
    if len(set(config.retrievers)) != len(config.retrievers):
        found.append(FieldViolation("evaluation.config.retrievers", "a retriever is named twice"))
    if config.endpoint is not None and len(config.endpoint.model) > MAX_MODEL_CHARACTERS:
        text = f"a model's name has at most {MAX_MODEL_CHARACTERS} characters"
        found.append(FieldViolation("evaluation.config.endpoint.model", text))
    return found


@dataclass(frozen=True, kw_only=True)
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
            # The nearest example comes last, next to the question.
            shots = tuple(reversed(self.retrieved.get(row.id, ())))
            passages = self.passages.get(row.id, ())
        if arm.spec.is_instructed and (self.passages or not arm.uses_retrieval):
            shots = self.fixed
        turns = shot_turns(shots, max_characters=self.shot_characters)
        instruction = self.instruction if arm.spec.is_instructed else ""
        return Query(
            arm=arm,
            row=row,
            messages=_conversation(with_documents(row.prompt, passages), turns, instruction),
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


def fixed_shots(train: Sequence[Row], count: int, *, seed: int) -> list[Row]:
    """`count` training rows, each from another group while groups last: the examples of the prompted arm."""
    rng = random.Random(seed)  # noqa: S311
    order = rng.sample(list(train), len(train))
    seen: set[str] = set()
    fresh: list[Row] = []
    again: list[Row] = []
    for row in order:
        (again if row.group in seen else fresh).append(row)
        seen.add(row.group)
    return (fresh + again)[:count]


def shot_turns(shots: Sequence[Row], *, max_characters: int = MAX_QUESTION_CHARACTERS) -> list[Message]:
    """Each example as a user turn, cut at the end, and the assistant's turn."""
    turns = []
    for row in shots:
        turns.append(Message("user", shorten(row.question, max_characters)))
        turns.append(Message("assistant", row.reference))
    return turns


def shorten(text: str, max_characters: int) -> str:
    """`text`, cut at a line or word end with a mark where it is longer."""
    if len(text) <= max_characters:
        return text
    head = text[:max_characters]
    cut = max(head.rfind("\n"), head.rfind(" "))
    return (head[:cut] if cut > max_characters // 2 else head).rstrip() + " ..."
