"""Additional questions to an arm, for metrics that one answer cannot give. They are asked like every query (patience,
sample store: nothing is paid twice) under their own row ids, and count in no latency or cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Answer, Message
from luthierd.evaluator.models.arms import Query

SEPARATOR = "#probe:"
"""Stored in the ids of answers."""


def perturbed(query: Query, name: str, *, question: str | None = None) -> Query:
    """`query` again under another row id, with its last question replaced if one is given."""
    row = replace(query.row, id=f"{query.row.id}{SEPARATOR}{name}")
    messages = query.messages
    if question is not None:
        last = max(index for index, turn in enumerate(messages) if turn.role == "user")
        messages = (*messages[:last], Message("user", question), *messages[last + 1 :])
    return replace(query, row=row, messages=messages)


def perturbed_answers(answers: Sequence[Answer]) -> dict[tuple[Arm, str], dict[str, str]]:
    """Answers to perturbed queries: by arm and row, then by the perturbation's name. A failed answer is absent."""
    found: dict[tuple[Arm, str], dict[str, str]] = {}
    for answer in answers:
        row_id, separator, name = answer.row_id.rpartition(SEPARATOR)
        if separator and answer.error is None:
            found.setdefault((answer.arm, row_id), {})[name] = answer.text
    return found
