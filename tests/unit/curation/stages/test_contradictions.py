"""Contradictions."""

from __future__ import annotations

from luthierd.curation.stages.contradictions import Contradictions
from luthierd.curation.stages.stage import NoSettings
from support.curation_material import apply, row


def test_one_prompt_with_two_answers_is_a_contradiction() -> None:
    stage = Contradictions(NoSettings())
    rows = [row(1, prompt="p", completion="yes"), row(2), row(3, prompt="p", completion="no"), row(4, prompt="q")]
    applied = apply(stage, rows)
    assert applied.findings == {"prompt_count": 1, "row_count": 2, "examples": [["row-1", "row-3"]]}
    assert applied.rows == rows
    same = [row(1, prompt="p", completion="x"), row(2, prompt="p", completion="x")]
    assert apply(stage, same).findings["examples"] == []
