"""Rows and a scanner for the tests of curation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from luthierd.curation.domain import Message, Role, Row, Span
from luthierd.curation.recipe import parse_recipe
from luthierd.curation.stages.pii import Pii
from luthierd.curation.stages.stage import STAGES, Applied, Stage

MAIL = re.compile(r"\S+@\S+\.\w+")
NAME = re.compile(r"\b(Ada|Grace)\b")


def row(number: int, *, prompt: str = "", completion: str = "", group: str = "", label: str | None = None) -> Row:
    """A row unlike any other number's."""
    words = " ".join(f"w{number}x{i}" for i in range(30))
    messages = (Message(Role.USER, prompt or words), Message(Role.ASSISTANT, completion or f"answer {number}"))
    return Row(id=f"row-{number}", group=group or f"row-{number}", label=label, messages=messages)


def stages_of(*names: str, **settings: dict[str, Any]) -> list[Stage]:
    """Stages with their settings by name; without names the default ones. The scanner is `MailScanner`."""
    chosen = names or tuple(one.stage for one in parse_recipe(None).stages)
    listed = [{"stage": name, "settings": settings.get(name)} for name in chosen]
    return [
        Pii(one.settings, MailScanner()) if one.stage == Pii.name else STAGES.find(one.stage)(one.settings)  # type: ignore[misc]
        for one in parse_recipe({"stages": listed}).stages
    ]


def apply(stage: Stage, rows: Sequence[Row]) -> Applied:
    """What a stage makes of rows."""
    return stage.apply(rows, lambda done: None)


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
