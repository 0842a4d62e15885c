"""The nouns of curation. Standard library only."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Row:
    """One example: a prompt (all messages but the last) and the assistant's answer to it (the last)."""

    id: str
    group: str
    """Rows of one group are alike by origin (a file, a customer) and stay in one split."""
    label: str | None
    messages: tuple[Message, ...]
    feedback: Feedback | None = None
    choices: tuple[str, ...] = ()
    """What the answer is chosen from, itself among them (multiple choice, preferences); empty: answers are free."""
    sources: tuple[str, ...] = ()
    """Ids of rows that hold what the answer rests on; only the evaluator reads them."""

    @property
    def parts(self) -> tuple[Message, ...]:
        """Every text of the row: its messages, then its choices, so that no step forgets these."""
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


class Step(enum.StrEnum):
    """The steps, in their order. PII comes before near duplicates, so that rows alike but for a name are found."""

    CLEAN = "clean"
    EXACT_DUPLICATES = "exact_duplicates"
    PII = "pii"
    NEAR_DUPLICATES = "near_duplicates"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class Change:
    """A line of provenance: a step dropped or changed a row."""

    row_id: str
    step: Step
    is_dropped: bool
    reason: str
    other_row_id: str | None = None
    """The row that was kept instead, where there is one."""


@dataclass(frozen=True)
class SplitFile:
    """The rows of one split: a blob of canonical JSONL."""

    split: Split
    sha256: str
    size_bytes: int
    row_count: int
    group_count: int


@dataclass(frozen=True)
class StepSummary:
    """What one step did."""

    step: Step
    dropped_count: int
    changed_count: int
    reason_counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
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
    """What curation made; every digest names a blob."""

    sha256: str
    splits: tuple[SplitFile, ...]
    steps: tuple[StepSummary, ...]
    datasheet_sha256: str

    def to_json(self) -> dict[str, Any]:
        """For the job's `result`."""
        return {
            "sha256": self.sha256,
            "splits": [vars(split) for split in self.splits],
            "steps": [vars(step) for step in self.steps],
            "datasheet_sha256": self.datasheet_sha256,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RevisionContent:
        """The inverse of `to_json`, also after a trip through JSON."""
        return cls(
            sha256=value["sha256"],
            splits=tuple(SplitFile(**raw | {"split": Split(raw["split"])}) for raw in value["splits"]),
            steps=tuple(StepSummary(**raw | {"step": Step(raw["step"])}) for raw in value["steps"]),
            datasheet_sha256=value["datasheet_sha256"],
        )


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
    choices, sources = tuple(raw.get("choices", ())), tuple(raw.get("sources", ()))
    return Row(raw["id"], raw["group"], raw["label"], messages, feedback, choices, sources)
