"""Rows in and out: parsing a dataset's canonical JSONL, choosing rows evenly over groups, slices, and writing rows with
all answers and scores.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from luthierd.errors import DataLossError
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Answer, Message, Row
from luthierd.evaluator.domain.scores import RowScores

MAX_SLICES = 30
"""A slice of five arms and seven metrics takes some 17 kB of every read of the evaluation: the largest are kept."""
# Arm -> metric -> row id -> score; a row that failed has none.
ScoresByArm = Mapping[Arm, Mapping[str, Mapping[str, float]]]


class DatasetRowError(DataLossError):
    """A line of a dataset revision is not a canonical row: the revision was not written by curation."""

    reason = "DATASET_ROW_INVALID"

    def __init__(self, split: str, line: int, problem: str) -> None:
        super().__init__(
            f"line {line} of split {split!r} is not a canonical row: {problem}; curate the dataset again",
            metadata={"split": split, "line": str(line), "problem": problem},
        )


def parse_rows(data: bytes, *, split: str) -> list[Row]:
    """The rows of a split, in order. The last message is the reference, the ones before it the prompt."""
    return [_parse_row(line, split, number) for number, line in enumerate(data.splitlines(), start=1) if line]


def select_rows(rows: Sequence[Row], limit: int, *, seed: int) -> list[Row]:
    """At most `limit` rows (0: all), in their order, drawn round and round over the groups: many groups with few rows
    say more than few groups with many.
    """
    if not limit or len(rows) <= limit:
        return list(rows)
    rng = random.Random(seed)  # noqa: S311
    by_group: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_group[row.group].append(row)
    queues = [rng.sample(members, len(members)) for _, members in sorted(by_group.items())]
    rng.shuffle(queues)
    chosen = {row.id for row, _ in zip(_round_robin(queues), range(limit), strict=False)}
    return [row for row in rows if row.id in chosen]


def _round_robin(queues: list[list[Row]]) -> Iterator[Row]:
    for depth in range(max(len(queue) for queue in queues)):
        for queue in queues:
            if depth < len(queue):
                yield queue[depth]


def _parse_row(line: bytes, split: str, number: int) -> Row:
    try:
        raw = json.loads(line)
        messages = [Message(str(turn["role"]), str(turn["content"])) for turn in raw["messages"]]
        row_id, group, label = str(raw["id"]), str(raw["group"]), raw.get("label")
        choices, sources, slices = (tuple(map(str, raw.get(key) or ())) for key in ("choices", "sources", "slices"))
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetRowError(split, number, f"{type(error).__name__}: {error}") from error
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise DatasetRowError(split, number, "the last of at least two messages must be the assistant's")
    return Row(
        id=row_id,
        group=group,
        label=None if label is None else str(label),
        prompt=tuple(messages[:-1]),
        reference=messages[-1].content,
        choices=choices,
        sources=sources,
        slices=slices,
    )


def slice_names(row: Row) -> tuple[str, ...]:
    """`label:` and the label, if the row has one, then the row's own slices, each once."""
    by_label = (f"label:{row.label}",) if row.label is not None else ()
    return tuple(dict.fromkeys((*by_label, *row.slices)))


def slice_positions(rows: Sequence[Row]) -> Mapping[str, Sequence[int]]:
    """The positions of every slice's rows, largest slice first, MAX_SLICES at most."""
    found: dict[str, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        for name in slice_names(row):
            found[name].append(position)
    largest = sorted(found, key=lambda name: (-len(found[name]), name))[:MAX_SLICES]
    return {name: found[name] for name in largest}


def write_rows(
    rows: Sequence[Row], answers: Mapping[Arm, Mapping[str, Answer]], row_scores: Sequence[RowScores]
) -> list[dict[str, Any]]:
    """One mapping a row: `row_id`, `group`, `slices`, `question`, `reference`, `answers` (one for each arm, in arm
    order).
    """
    scores: dict[tuple[Arm, str], dict[str, float]] = {}
    failures: dict[tuple[Arm, str], dict[str, str]] = {}
    for scored in row_scores:
        for score in scored.scores:
            if score.value is not None:
                scores.setdefault((scored.arm, score.row_id), {})[scored.metric] = round(score.value, 6)
            elif score.failure:
                reason = score.failure.partition(":")[0]
                failures.setdefault((scored.arm, score.row_id), {})[scored.metric] = reason
    return [
        {
            "row_id": row.id,
            "group": row.group,
            "slices": list(slice_names(row)),
            "question": row.question,
            "reference": row.reference,
            "answers": [
                _answer(arm, given.get(row.id), scores.get((arm, row.id), {}), failures.get((arm, row.id), {}))
                for arm, given in answers.items()
            ],
        }
        for row in rows
    ]


def _answer(
    arm: Arm, answer: Answer | None, scores: Mapping[str, float], failures: Mapping[str, str]
) -> dict[str, Any]:
    error = answer.error if answer else None
    # Without an answer every metric fails alike: `error_reason` says it once.
    unscored = {"score_failures": dict(failures)} if failures and answer and error is None else {}
    return unscored | {
        "arm": arm.value,
        "text": answer.text if answer else "",
        "error_reason": error.reason if error else ("" if answer else "NOT_ASKED"),
        "scores": dict(scores),
        "shown_row_ids": list(answer.shown_row_ids) if answer else [],
        "completion_tokens": answer.completion_tokens if answer else 0,
        "finish_reason": answer.finish_reason if answer else "",
    }


def scores_by_arm(rows: Sequence[Mapping[str, Any]]) -> ScoresByArm:
    """The scores of rows that `write_rows` made."""
    found: dict[Arm, dict[str, dict[str, float]]] = {}
    for row in rows:
        for answer in row["answers"]:
            by_metric = found.setdefault(Arm(answer["arm"]), {})
            for metric, score in answer["scores"].items():
                by_metric.setdefault(metric, {})[row["row_id"]] = score
    return found


def scores_on(rows: Sequence[Mapping[str, Any]], by_row: Mapping[str, float]) -> list[float | None]:
    """One score a row, None where there is none."""
    return [by_row.get(row["row_id"]) for row in rows]
