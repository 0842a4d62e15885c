"""What an answer may rest on: the row's prompt, the passages that the arm was shown, and the row's gold passages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from luthierd.evaluator.domain.rows import Row
from luthierd.evaluator.domain.scores import ScoreFailedError
from luthierd.evaluator.scorers.scorer import Sample


@dataclass(frozen=True)
class Passages:
    """Training rows and documents by id, as texts."""

    by_id: Mapping[str, Row] = field(default_factory=dict)

    @staticmethod
    def text_of(row: Row) -> str:
        """A row as a passage: its question and its answer."""
        return f"{row.question}\n{row.reference}"

    def gold(self, sample: Sample) -> list[str]:
        """The passages that hold the answer. Without any the reference itself stands for them."""
        named = [self.by_id[name] for name in (sample.row.sources if sample.row else ()) if name in self.by_id]
        if named:
            return [self.text_of(row) for row in named]
        if not sample.reference.text:
            raise ScoreFailedError("NO_SOURCES")
        return [sample.reference.text]

    def shown(self, sample: Sample) -> list[str]:
        """The passages of the prompt; ScoreFailedError where the arm was shown none."""
        if not sample.shown:
            raise ScoreFailedError("NO_CONTEXT")
        return [self.text_of(row) for row in sample.shown]

    def everything(self, sample: Sample) -> str:
        """All of it in one text."""
        prompt = [turn.content for turn in sample.row.prompt] if sample.row else []
        return "\n".join([*prompt, *map(self.text_of, sample.shown), *self.gold(sample)])
