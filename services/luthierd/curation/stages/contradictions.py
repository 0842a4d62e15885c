"""Contradictions: one prompt with several answers. Reported, not resolved: people know which answer is right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from luthierd.curation.domain import Message, Row
from luthierd.curation.stages.stage import STAGES, Applied, Progress, Stage

EXAMPLE_COUNT = 5


@STAGES.register
class Contradictions(Stage):
    """Reports rows with equal prompts and different completions."""

    name = "contradictions"
    changes_rows = False

    def apply(self, rows: Sequence[Row], progress: Progress) -> Applied:
        by_prompt: dict[tuple[Message, ...], list[Row]] = defaultdict(list)
        for row in rows:
            by_prompt[row.prompt].append(row)
        found = [[row.id for row in same] for same in by_prompt.values() if len({row.completion for row in same}) > 1]
        row_count = sum(map(len, found))
        findings = {"prompt_count": len(found), "row_count": row_count, "examples": found[:EXAMPLE_COUNT]}
        text = f"{len(found)} prompts have several answers ({row_count} rows). They are reported, not resolved."
        return Applied(rows, findings=findings, page=f"## Contradictions\n\n{text}\n")
