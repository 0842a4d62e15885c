"""Reading answers: which JSON fields hold the text and the label, and what an answer says under that reading."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from luthierd.errors import FailedPreconditionError
from luthierd.evaluator.domain.metric_details import TaskKind
from luthierd.evaluator.domain.rows import Row, TaskSpec

LABEL_AGREEMENT = 0.95
"""A field is taken for the label when it repeats the row's own label in nearly every row; a few rows may carry
corrections.
"""


class TaskDoesNotFitError(FailedPreconditionError):
    """The rows do not fit the configured task."""

    reason = "TASK_DOES_NOT_FIT"

    def __init__(self, kind: str, problem: str) -> None:
        super().__init__(
            f"task {kind}: {problem}; name `label_field`, or another task", metadata={"task": kind, "problem": problem}
        )


@dataclass(frozen=True)
class ParsedAnswer:
    """An answer as the scorers see it. `text` falls back to the raw answer, generous to a model that writes no JSON;
    `label` does not.
    """

    text: str
    label: str | None
    valid: bool
    canonical: str


def parse_answer(raw: str, task: TaskSpec) -> ParsedAnswer:
    """Reads an answer or a reference. For a JSON task `valid` means: the whole text is one JSON object that has every
    field of the task as a string. For a text task the label is the text itself.
    """
    text = raw.strip()
    if not task.is_json:
        return ParsedAnswer(text=text, label=text, valid=False, canonical=text)
    parsed = _json_object(text)
    if parsed is None:
        return ParsedAnswer(text=text, label=None, valid=False, canonical=text)
    return ParsedAnswer(
        text=_string_field(parsed, task.text_field) or text,
        label=_string_field(parsed, task.label_field),
        valid=all(isinstance(parsed.get(name), str) for name in task.json_fields),
        canonical=json.dumps(parsed, sort_keys=True, ensure_ascii=False),
    )


def task_of(
    rows: Sequence[Row],
    kind: TaskKind = TaskKind.AUTO,
    *,
    text_field: str | None = None,
    label_field: str | None = None,
) -> TaskSpec:
    """The task of a kind: what is chosen is plain text, everything else is as the references show.
    TaskDoesNotFitError.
    """
    if kind.is_chosen:
        return TaskSpec(kind=kind)
    task = replace(detect_task(rows, text_field=text_field, label_field=label_field), kind=kind)
    if kind is TaskKind.CLASSIFICATION and task.is_json and task.label_field is None:
        raise TaskDoesNotFitError(kind, "the references are JSON and no field of them repeats the row's label")
    return task


def detect_task(rows: Sequence[Row], *, text_field: str | None = None, label_field: str | None = None) -> TaskSpec:
    """The task that the references show. JSON if every reference is an object; its label field is the one that repeats
    the row's label, its text field the other string field with the longest text. Named fields are taken as they are.
    """
    objects = [_json_object(row.reference.strip()) for row in rows]
    found = [parsed for parsed in objects if parsed is not None]
    if not rows or len(found) < len(rows):
        named = tuple(name for name in (text_field, label_field) if name)
        return TaskSpec(text_field, label_field, named)
    fields = sorted(name for name in found[0] if all(isinstance(parsed.get(name), str) for parsed in found))
    label_field = label_field or _label_field(rows, found, fields)
    candidates = [name for name in fields if name != label_field]
    if text_field is None and candidates:
        text_field = max(candidates, key=lambda name: sum(len(str(parsed[name])) for parsed in found))
    named = tuple(name for name in (text_field, label_field) if name)
    return TaskSpec(text_field, label_field, tuple(sorted(set(fields) | set(named))))


def has_labels(rows: Iterable[Row], task: TaskSpec) -> bool:
    """Whether label metrics mean something: the task names a label field, or plain references are the rows' labels, or
    the task says that they are labels, or every row has the same choices.
    """
    if task.is_json:
        return task.label_field is not None
    if task.kind is TaskKind.CLASSIFICATION:
        return True
    if task.kind.is_chosen:
        return len({tuple(sorted(row.choices)) for row in rows}) == 1
    return all(row.label is not None and row.label == row.reference.strip() for row in rows)


def _label_field(rows: Sequence[Row], found: Sequence[dict[str, object]], fields: Sequence[str]) -> str | None:
    def agreement(name: str) -> float:
        return sum(parsed[name] == row.label for row, parsed in zip(rows, found, strict=True)) / len(rows)

    best = max(fields, key=agreement, default=None)
    return best if best is not None and agreement(best) >= LABEL_AGREEMENT else None


def _json_object(text: str) -> dict[str, object] | None:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _string_field(parsed: dict[str, object], name: str | None) -> str | None:
    value = parsed.get(name) if name else None
    return value if isinstance(value, str) else None
