"""Exact duplicates: rows with the same messages. The first one stays."""

from __future__ import annotations

from collections.abc import Iterable

from luthierd.curation.domain import Change, Message, Row, Step


def drop_exact_duplicates(rows: Iterable[Row]) -> tuple[list[Row], list[Change]]:
    """The first row of each content. The reason tells whether the dropped row had another label."""
    first: dict[tuple[Message, ...], Row] = {}
    changes = []
    for row in rows:
        kept = first.setdefault(row.messages, row)
        if kept is not row:
            reason = "same_messages" if kept.label == row.label else "same_messages_other_label"
            changes.append(Change(row.id, Step.EXACT_DUPLICATES, True, reason, kept.id))
    return list(first.values()), changes
