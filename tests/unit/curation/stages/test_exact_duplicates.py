"""Exact duplicates."""

from __future__ import annotations

import dataclasses

from luthierd.curation.stages.exact_duplicates import ExactDuplicates
from luthierd.curation.stages.stage import NoSettings
from support.curation_material import apply, row


def test_of_exact_duplicates_the_first_stays_and_another_label_is_told() -> None:
    first = row(1, label="a")
    twins = [dataclasses.replace(first, id="same"), dataclasses.replace(first, id="other", label="b")]
    applied = apply(ExactDuplicates(NoSettings()), [first, row(2), *twins])
    assert [one.id for one in applied.rows] == ["row-1", "row-2"]
    assert [(c.row_id, c.reason, c.kept_id) for c in applied.changes] == [
        ("same", "same_messages", "row-1"),
        ("other", "same_messages_other_label", "row-1"),
    ]
