"""What is recorded of answers, what users say about them, and what may be kept."""

from __future__ import annotations

import enum
import hashlib
import math
from dataclasses import dataclass, replace

from luthierd.errors import FieldViolation, InvalidArgumentError
from luthierd.inference.domain.completion import Turn

MIN_RETENTION_S, MAX_RETENTION_S = 60.0, 366 * 86400.0
DEFAULT_RETENTION_S = 30 * 86400.0
MAX_CORRECTION_CHARACTERS = 32_768
MAX_LABELS, MAX_LABEL_CHARACTERS = 16, 64


class Rating(enum.Enum):
    """A rating of one answer."""

    UNSPECIFIED = "UNSPECIFIED"
    BAD = "BAD"
    GOOD = "GOOD"


class FileKind(enum.Enum):
    """The kind of a capture file."""

    PART = "PART"
    EXPORT = "EXPORT"


@dataclass(frozen=True, kw_only=True)
class Response:
    """One answer that ended: who gave it, when, how long. It has no text. Times: seconds since the epoch."""

    response_id: str
    tenant: str
    target: str
    loaded_adapter: str
    deployment_revision: int
    adapter_revision: str
    base_model: str
    create_time: float
    finish_reason: str
    prompt_token_count: int
    completion_token_count: int
    ttft_ms: float
    latency_ms: float
    mirror_of: str = ""
    """The response id of the live answer that it copies."""


@dataclass(frozen=True)
class Text:
    """A prompt, as turns (a single user turn for a plain text), and the answer to it."""

    messages: tuple[Turn, ...]
    completion: str

    @property
    def character_count(self) -> int:
        return len(self.completion) + sum(len(text) for turn in self.messages for text in turn.texts)


@dataclass(frozen=True)
class Captured:
    """An answer with its text; None if the text was not captured."""

    response: Response
    text: Text | None = None


@dataclass(frozen=True, kw_only=True)
class PolicyChange:
    """Fields to change; None leaves a field unchanged."""

    enabled: bool | None = None
    retention_s: float | None = None
    sample_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class CapturePolicy:
    """Whether and how long a tenant's texts are kept. `enabled_time`: start of the current period; 0 while off."""

    tenant: str
    enabled: bool = False
    retention_s: float = DEFAULT_RETENTION_S
    sample_rate: float = 1.0
    change: int = 0
    update_time: float = 0.0
    enabled_time: float = 0.0

    @property
    def etag(self) -> str:
        return hashlib.sha256(f"{self.tenant}\0{self.change}".encode()).hexdigest()[:16]

    def changed(self, change: PolicyChange, now: float) -> CapturePolicy:
        """The changed policy. InvalidArgumentError names the field that is out of range."""
        given = {name: value for name, value in vars(change).items() if value is not None}
        after = replace(self, **given, change=self.change + 1, update_time=now)
        if not MIN_RETENTION_S <= after.retention_s <= MAX_RETENTION_S:
            raise InvalidArgumentError.of_field(
                "capture_policy.retention", f"{after.retention_s:g} s is not from 1 minute to 366 days"
            )
        if not (math.isfinite(after.sample_rate) and 0 < after.sample_rate <= 1):
            raise InvalidArgumentError.of_field(
                "capture_policy.sample_rate", f"{after.sample_rate:g} is not above 0 and at most 1"
            )
        since = self.enabled_time if self.enabled else now
        return replace(after, enabled_time=since if after.enabled else 0.0)

    def takes(self, response_id: str) -> bool:
        """Whether this answer belongs to the sample. The same answer gets the same result on every server."""
        if not self.enabled:
            return False
        share = int.from_bytes(hashlib.sha256(response_id.encode()).digest()[:8], "big") / 2**64
        return share < self.sample_rate


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What a user says about an answer."""

    rating: Rating = Rating.UNSPECIFIED
    correction: str = ""
    labels: tuple[str, ...] = ()

    @classmethod
    def parse(cls, rating: Rating, correction: str, labels: tuple[str, ...]) -> Opinion:
        """InvalidArgumentError if it is empty, or a part of it exceeds its limit."""
        if rating is Rating.UNSPECIFIED and not correction.strip() and not labels:
            raise InvalidArgumentError(
                "the feedback is empty; give a rating, a correction or labels",
                violations=[FieldViolation("rating", "or `correction` or `labels`: one is needed")],
            )
        if len(correction) > MAX_CORRECTION_CHARACTERS:
            raise InvalidArgumentError.of_field(
                "correction", f"{len(correction)} characters; the limit is {MAX_CORRECTION_CHARACTERS}"
            )
        if "\0" in correction:
            raise InvalidArgumentError.of_field("correction", "it contains the character U+0000; remove it")
        if len(labels) > MAX_LABELS:
            raise InvalidArgumentError.of_field("labels", f"{len(labels)} labels; the limit is {MAX_LABELS}")
        for index, label in enumerate(labels):
            if not (0 < len(label) <= MAX_LABEL_CHARACTERS and label.isprintable() and label.strip() == label):
                raise InvalidArgumentError.of_field(
                    f"labels[{index}]",
                    f"it must have 1 to {MAX_LABEL_CHARACTERS} visible characters, without blanks around them",
                )
        return cls(rating=rating, correction=correction.strip() and correction, labels=tuple(sorted(set(labels))))


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """A stored opinion with the answer that it is about."""

    response: Response
    opinion: Opinion
    create_time: float
    update_time: float


@dataclass(frozen=True, kw_only=True)
class CaptureFile:
    """A Parquet file in the blob store. `oldest_time`: when its oldest answer ended; 0 without rows."""

    name: str
    tenant: str
    kind: FileKind
    sha256: str
    size_bytes: int
    row_count: int
    create_time: float
    oldest_time: float


@dataclass(frozen=True, kw_only=True)
class ExportFilter:
    """Which feedback to export; an empty or unspecified field matches everything."""

    deployment: str = ""
    rating: Rating = Rating.UNSPECIFIED
