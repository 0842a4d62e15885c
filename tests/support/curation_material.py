"""Rows and a scanner for the tests of curation."""

from __future__ import annotations

import re
from collections.abc import Sequence

from luthierd.curation.domain import Message, Role, Row
from luthierd.curation.stages.pii import Span

MAIL = re.compile(r"\S+@\S+\.\w+")
NAME = re.compile(r"\b(Ada|Grace)\b")


def row(number: int, *, prompt: str = "", completion: str = "", group: str = "", label: str | None = None) -> Row:
    """A row unlike any other number's."""
    words = " ".join(f"w{number}x{i}" for i in range(30))
    messages = (Message(Role.USER, prompt or words), Message(Role.ASSISTANT, completion or f"answer {number}"))
    return Row(f"row-{number}", group or f"row-{number}", label, messages)


class MailScanner:
    """Finds mail addresses (surely) and two names (less so)."""

    entities = frozenset(
        {"EMAIL_ADDRESS", "PERSON", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "US_SSN", "CRYPTO"}
    )

    def __init__(self) -> None:
        self.text_count = 0

    def scan(self, texts: Sequence[str]) -> list[list[Span]]:
        self.text_count += len(texts)
        return [
            [Span(m.start(), m.end(), "EMAIL_ADDRESS", 1.0) for m in MAIL.finditer(text)]
            + [Span(m.start(), m.end(), "PERSON", 0.85) for m in NAME.finditer(text)]
            for text in texts
        ]
