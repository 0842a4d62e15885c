"""Clean: one form of Unicode, no invisible characters, tidy blanks, bounded lengths."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from luthierd.curation.domain import Change, Message, Row
from luthierd.curation.stages.stage import STAGES, Applied, Progress, Stage
from luthierd.settings import setting

_LINE_BREAK = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"  # control characters but tab and line breaks
    "\u00ad\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\ufff9-\ufffb"  # soft hyphen, zero width, bidi, annotations
    "\ufdd0-\ufdef\ufffe\uffff]"  # noncharacters
)
"""U+200C and U+200D stay: Persian, Hindi and emoji need them."""
_TRAILING_BLANKS = re.compile(r"(?<![ \t\u00a0\u3000])[ \t\u00a0\u3000]++(?=\n|$)")
"""Begins at the first of several blanks and takes them all: otherwise a million of them take hours."""
_MANY_EMPTY_LINES = re.compile(r"\n{3,}")


def clean_text(text: str) -> str:
    """`text` in NFC, without invisible characters, blanks at line ends, or more than one empty line in a row.

    Indentation stays as it is where there are several lines: it has meaning in code.
    """
    if text.isascii() and text.isprintable():  # one line
        return text.strip()
    text = unicodedata.normalize("NFC", text)
    text = _LINE_BREAK.sub("\n", text)
    text = _INVISIBLE.sub("", text)
    text = _TRAILING_BLANKS.sub("", text)
    text = _MANY_EMPTY_LINES.sub("\n\n", text).strip("\n").rstrip()
    return text if "\n" in text else text.strip()


@dataclass(frozen=True, kw_only=True)
class CleanSettings:
    """Lengths of the rows that stay."""

    min_completion_characters: int = setting(1, at_least=1)
    max_row_characters: int = setting(32_768, at_least=1)
    """Over all messages and choices."""


@STAGES.register
class Clean(Stage):
    """Cleans every text; drops rows with an empty message, a short completion, or too much text."""

    name, Settings = "clean", CleanSettings
    settings: CleanSettings

    def apply(self, rows: Sequence[Row], progress: Progress) -> Applied:
        kept, changes = [], []
        for row in rows:
            cleaned = row.with_parts([Message(part.role, clean_text(part.content)) for part in row.parts])
            if reason := self._reason_to_drop(cleaned):
                changes.append(Change(row.id, reason, is_dropped=True))
                continue
            if cleaned != row:
                changes.append(Change(row.id, "text_normalised"))
            kept.append(cleaned)
        return Applied(kept, changes)

    def _reason_to_drop(self, row: Row) -> str | None:
        if any(not message.content for message in row.messages):
            return "message_empty"
        if not all(row.choices):
            return "choice_empty"
        if len(row.completion) < self.settings.min_completion_characters:
            return "completion_too_short"
        if row.character_count > self.settings.max_row_characters:
            return "row_too_long"
        return None
