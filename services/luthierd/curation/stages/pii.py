"""Personal data: what the scanner found is counted, masked, or drops the row, by the recipe's rules."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from luthierd.curation.domain import Change, Message, Row, Step
from luthierd.curation.recipe import PiiAction, PiiRules

BATCH_ROWS = 32
"""Rows between two looks at the progress and at a cancel; the scanner's cost per text does not depend on it."""
MIN_REPEATED_CHARACTERS = 5
"""A masked value at least this long is masked wherever else it occurs in the row, seen by the scanner or not."""


class Span(NamedTuple):
    """A find: characters `start` to `end` of a text are probably an `entity`."""

    start: int
    end: int
    entity: str
    score: float


class Scanner(Protocol):
    """Finds personal data in texts."""

    @property
    def entities(self) -> frozenset[str]:
        """The types that it can find."""

    def scan(self, texts: Sequence[str]) -> list[list[Span]]:
        """The finds of each text, in the order of the texts."""


@dataclass
class PiiCounts:
    """Counted over the rows that came in."""

    spans_by_entity: Counter[str] = field(default_factory=Counter)
    rows_by_entity: Counter[str] = field(default_factory=Counter)
    masked_spans_by_entity: Counter[str] = field(default_factory=Counter)
    masked_character_count: int = 0
    character_count: int = 0
    completions_masked_count: int = 0
    completions_underivable_count: int = 0
    """Rows whose answer had a value masked that its prompt does not hold: what masking costs in usefulness."""


@dataclass(frozen=True)
class PiiResult:
    """The rows that stay, what was dropped or changed, and the counts."""

    rows: list[Row]
    changes: list[Change]
    counts: PiiCounts


def treat_pii(rows: Sequence[Row], rules: PiiRules, scanner: Scanner, *, progress: Callable[[int], None]) -> PiiResult:
    """Applies `rules` to each row; `progress` hears the rows done, often enough to stop the work within seconds."""
    kept: list[Row] = []
    changes: list[Change] = []
    counts = PiiCounts()
    for position, (row, spans) in enumerate(_scanned(rows, rules, scanner), start=1):
        _count(row, spans, counts)
        acted = [[span for span in found if span.entity in rules.entities] for found in spans]
        if not any(acted) or rules.action is PiiAction.REPORT:
            kept.append(row)
        elif rules.action is PiiAction.DROP:
            changes.append(Change(row.id, Step.PII, True, "holds_" + _entities(acted)))
        else:
            kept.append(mask_row(row, acted, counts))
            changes.append(Change(row.id, Step.PII, False, "masked_" + _entities(acted)))
        if position % BATCH_ROWS == 0:
            progress(position)
    return PiiResult(kept, changes, counts)


def mask_row(row: Row, spans: Sequence[Sequence[Span]], counts: PiiCounts) -> Row:
    """`row` with each span, and each other occurrence of its text in the row, replaced by `<ENTITY_TYPE>`."""
    values = {
        message.content[span.start : span.end]: span.entity
        for message, found in zip(row.parts, spans, strict=True)
        for span in found
    }
    repeated = {value: entity for value, entity in values.items() if len(value) >= MIN_REPEATED_CHARACTERS}
    parts, masked_texts = [], []
    for message, found in zip(row.parts, spans, strict=True):
        merged = merge_spans([*found, *_occurrences(message.content, repeated)])
        masked_texts.append([message.content[span.start : span.end] for span in merged])
        parts.append(Message(message.role, mask_text(message.content, merged)))
        counts.masked_spans_by_entity.update(span.entity for span in merged)
        counts.masked_character_count += sum(span.end - span.start for span in merged)
    prompt = "\n".join(message.content for message in row.prompt)
    in_completion = masked_texts[len(row.messages) - 1]
    counts.completions_masked_count += bool(in_completion)
    counts.completions_underivable_count += any(text not in prompt for text in in_completion)
    return row.with_parts(parts)


def merge_spans(spans: Sequence[Span]) -> list[Span]:
    """Spans that do not overlap and cover the same characters; the surest of overlapping ones names the type."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start < merged[-1].end:
            surest = max(merged[-1], span, key=lambda one: (one.score, one.end - one.start))
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end), surest.entity, surest.score)
        else:
            merged.append(span)
    return merged


def mask_text(text: str, spans: Sequence[Span]) -> str:
    """`text` with each of `spans` (in order, not overlapping) replaced by `<ENTITY_TYPE>`."""
    parts, end = [], 0
    for span in spans:
        parts += [text[end : span.start], f"<{span.entity}>"]
        end = span.end
    return "".join([*parts, text[end:]])


def _scanned(rows: Sequence[Row], rules: PiiRules, scanner: Scanner) -> Iterator[tuple[Row, list[list[Span]]]]:
    """Each row with the finds of each of its messages; equal texts of a batch (instructions) are scanned once."""
    seen: dict[str, list[Span]] = {}
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows[start : start + BATCH_ROWS]
        texts = list(dict.fromkeys(message.content for row in batch for message in row.parts))
        new = [text for text in texts if text not in seen]
        found = dict(zip(new, scanner.scan(new), strict=True))
        seen = {text: seen[text] if text in seen else found[text] for text in texts}
        for row in batch:
            yield (
                row,
                [[span for span in seen[message.content] if span.score >= rules.min_score] for message in row.parts],
            )


def _count(row: Row, spans: Sequence[Sequence[Span]], counts: PiiCounts) -> None:
    entities = [span.entity for found in spans for span in found]
    counts.spans_by_entity.update(entities)
    counts.rows_by_entity.update(set(entities))
    counts.character_count += row.character_count


def _entities(spans: Sequence[Sequence[Span]]) -> str:
    return "+".join(sorted({span.entity for found in spans for span in found}))


def _occurrences(text: str, values: dict[str, str]) -> Iterator[Span]:
    for value, entity in values.items():
        for match in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", text):
            yield Span(match.start(), match.end(), entity, 0.0)
