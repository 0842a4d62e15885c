"""Exact duplicates: of rows with the same messages the first one stays."""

from __future__ import annotations

from collections.abc import Sequence

from luthierd.curation.domain import Change, Message, Row
from luthierd.curation.stages.stage import STAGES, Applied, Progress, Stage


@STAGES.register
class ExactDuplicates(Stage):
    """The reason tells whether the dropped row had another label."""

    name = "exact_duplicates"

    def apply(self, rows: Sequence[Row], progress: Progress) -> Applied:
        first: dict[tuple[Message, ...], Row] = {}
        changes = []
        for row in rows:
            kept = first.setdefault(row.messages, row)
            if kept is not row:
                reason = "same_messages" if kept.label == row.label else "same_messages_other_label"
                changes.append(Change(row.id, reason, is_dropped=True, kept_id=kept.id))
        return Applied(list(first.values()), changes)
