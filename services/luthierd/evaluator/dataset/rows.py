"""Rows of a dataset split: parsing the canonical JSONL, and choosing some of them evenly over groups."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from luthierd.errors import DataLossError
from luthierd.evaluator.domain.rows import Message, Row


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
    return [_parse_row(line, split, number) for number, line in enumerate(data.decode().splitlines(), start=1) if line]


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


def _parse_row(line: str, split: str, number: int) -> Row:
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
        row_id,
        group,
        None if label is None else str(label),
        tuple(messages[:-1]),
        messages[-1].content,
        choices=choices,
        sources=sources,
        slices=slices,
    )
