"""The nouns of curation. Standard library only."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

REVISION_KIND = "revision"
"""Kind of the jobs that make revisions; the job's name is the revision's."""


class Split(enum.StrEnum):
    """The parts of a revision."""

    TRAIN = "train"
    VALIDATION = "validation"
    HOLDOUT = "holdout"


class Role(enum.StrEnum):
    """Who says a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a user said about the answer that a row was made of. `rating`: GOOD, BAD, or None for none."""

    rating: str | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One example: a prompt (all messages but the last) and the assistant's answer to it (the last)."""

    id: str
    group: str
    """Rows of one group have the same origin (a file, a customer) and stay in one split."""
    label: str | None = None
    messages: tuple[Message, ...]
    feedback: Feedback | None = None
    choices: tuple[str, ...] = ()
    """Multiple choice and preferences: the answers to choose from, the right one among them; empty: free answers."""
    sources: tuple[str, ...] = ()
    """Ids of rows that support the answer; only the evaluator reads them."""
    cluster: str | None = None
    """Set by stages: rows of one cluster are alike and stay in one split. Not stored."""
    split: Split | None = None
    """Set by the stage that splits. Not stored: each split has its own file."""

    @property
    def parts(self) -> tuple[Message, ...]:
        """Every text of the row: its messages, then its choices, so that no stage forgets these."""
        return (*self.messages, *(Message(Role.ASSISTANT, choice) for choice in self.choices))

    def with_parts(self, parts: Sequence[Message]) -> Row:
        """The row with other texts, in the order of `parts`."""
        count = len(self.messages)
        choices = tuple(part.content for part in parts[count:])
        return dataclasses.replace(self, messages=tuple(parts[:count]), choices=choices)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What is asked."""
        return self.messages[:-1]

    @property
    def completion(self) -> str:
        """The right answer."""
        return self.messages[-1].content

    @property
    def character_count(self) -> int:
        """Characters over all messages and choices."""
        return sum(len(part.content) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Change:
    """A line of provenance: a stage dropped or changed a row."""

    row_id: str
    reason: str
    is_dropped: bool = False
    kept_id: str | None = None
    """The row that was kept instead, where there is one."""


class Span(NamedTuple):
    """Personal data found: characters `start` to `end` of a text are probably an `entity`."""

    start: int
    end: int
    entity: str
    score: float


@dataclass(frozen=True)
class SplitFile:
    """The rows of one split: a blob of canonical JSONL."""

    split: Split
    sha256: str
    size_bytes: int
    row_count: int
    group_count: int


@dataclass(frozen=True)
class StageSummary:
    """What one stage did."""

    stage: str
    dropped_count: int
    changed_count: int
    reason_counts: dict[str, int] = field(default_factory=dict)


@dataclass
class Curated:
    """What the stages made of the rows, and why."""

    source_row_count: int
    rows: Sequence[Row]
    """Each with its split."""
    changes: dict[str, Sequence[Change]] = field(default_factory=dict)
    """By stage, in their order; stages that only report are left out."""
    findings: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """By stage; for the datasheet."""
    pages: list[str] = field(default_factory=list)

    def rows_of(self, split: Split) -> list[Row]:
        """The rows of a split, in their order."""
        return [row for row in self.rows if row.split is split]

    def summaries(self) -> tuple[StageSummary, ...]:
        """Counts by stage."""
        made = []
        for stage, changes in self.changes.items():
            dropped = sum(change.is_dropped for change in changes)
            reasons = Counter(change.reason for change in changes)
            made.append(StageSummary(stage, dropped, len(changes) - dropped, dict(sorted(reasons.items()))))
        return tuple(made)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A named collection of a tenant's rows, as imported last. Times are seconds since the epoch."""

    name: str
    source_sha256: str
    row_count: int
    create_time: float
    update_time: float
    revision_count: int = 0
    """Revisions ever begun; the next one is `r<count + 1>`."""
    latest_revision: str = ""

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return hashlib.sha256(canonical_json(vars(self))).hexdigest()[:16]


@dataclass(frozen=True)
class RevisionContent:
    """What curation made, the result of its job; every digest names a blob."""

    sha256: str
    splits: tuple[SplitFile, ...]
    stages: tuple[StageSummary, ...]
    datasheet_sha256: str


def canonical_json(value: Any) -> bytes:
    """The one form in which a value is digested: sorted keys, no blanks, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def row_to_json(row: Row) -> bytes:
    """The canonical line of a row, without the newline."""
    messages = [{"role": message.role, "content": message.content} for message in row.messages]
    value: dict[str, Any] = {"id": row.id, "group": row.group, "label": row.label, "messages": messages}
    if row.feedback is not None:
        value["feedback"] = {"rating": row.feedback.rating, "labels": list(row.feedback.labels)}
    # Absent where empty: revisions of datasets without them keep their digest.
    value |= {key: list(found) for key, found in (("choices", row.choices), ("sources", row.sources)) if found}
    return canonical_json(value)


def row_from_json(line: bytes) -> Row:
    """The inverse of `row_to_json`."""
    raw = json.loads(line)
    messages = tuple(Message(Role(message["role"]), message["content"]) for message in raw["messages"])
    said = raw.get("feedback")
    feedback = Feedback(said["rating"], tuple(said["labels"])) if said else None
    return Row(
        id=raw["id"],
        group=raw["group"],
        label=raw["label"],
        messages=messages,
        feedback=feedback,
        choices=tuple(raw.get("choices", ())),
        sources=tuple(raw.get("sources", ())),
    )
