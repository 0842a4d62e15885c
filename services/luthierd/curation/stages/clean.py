"""The clean step: one form of Unicode, no invisible characters, tidy blanks, bounded lengths."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from luthierd.curation.domain import Change, Message, Row, Step
from luthierd.curation.recipe import CleanRules

_LINE_BREAK = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"  # control characters but tab and line breaks
    "\u00ad\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\ufff9-\ufffb"  # soft hyphen, zero width, bidi, annotations
    "\ufdd0-\ufdef\ufffe\uffff]"  # noncharacters
)
"""U+200C and U+200D stay: Persian, Hindi and emoji need them."""
_TRAILING_BLANKS = re.compile(r"[ \t\u00a0\u3000]+(?=\n|$)")
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


def clean(rows: Iterable[Row], rules: CleanRules) -> tuple[list[Row], list[Change]]:
    """The rows that stay, cleaned, and what was dropped or changed, in the order of `rows`."""
    kept, changes = [], []
    for row in rows:
        cleaned = row.with_parts([Message(part.role, clean_text(part.content)) for part in row.parts])
        reason = _reason_to_drop(cleaned, rules)
        if reason:
            changes.append(Change(row.id, Step.CLEAN, True, reason))
            continue
        if cleaned != row:
            changes.append(Change(row.id, Step.CLEAN, False, "text_normalised"))
        kept.append(cleaned)
    return kept, changes


def _reason_to_drop(row: Row, rules: CleanRules) -> str | None:
    if any(not message.content for message in row.messages):
        return "message_empty"
    if not all(row.choices):
        return "choice_empty"
    if len(row.completion) < rules.min_completion_characters:
        return "completion_too_short"
    if row.character_count > rules.max_row_characters:
        return "row_too_long"
    return None
