"""Tasks of lm-evaluation-harness as a suite: each document an item, each task a slice, adapter against base.

`lm_eval` is the mean over all items of all tasks, the slices `lm_eval:TASK` those over a task's. A document of which
one request failed is failed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Row
from luthierd.evaluator.domain.scores import MetricResults
from luthierd.evaluator.scorers.suite_metrics import LM_EVAL
from luthierd.evaluator.suites.lm_harness import LmItem, LmTask
from luthierd.evaluator.suites.suite import (
    Answers,
    Suite,
    SuiteContext,
    SuiteScores,
    paired_results,
    said,
    scored_row,
    text_row,
)
from luthierd.statistics.compare import PairedRows, Scores

NAME = "lm_eval"


@dataclass(frozen=True, kw_only=True)
class LmSuite(Suite):
    """Scores the tasks' items."""

    name = NAME
    config_field = "lm_eval_suite"
    order = 3

    tasks: Sequence[LmTask]
    seed: int
    n_resamples: int
    sha256: str = ""

    @classmethod
    async def of(cls, context: SuiteContext) -> LmSuite | None:
        config = context.config
        if config.suites.lm_eval is None:
            return None
        tasks = await asyncio.to_thread(context.needed_parts.lm_tasks, config.suites.lm_eval)
        sha256 = await context.put(serialise(tasks))
        return cls(tasks=tasks, seed=config.seed, n_resamples=config.resample_count, sha256=sha256)

    @property
    def items(self) -> list[LmItem]:
        """Of all tasks, in order."""
        return [item for task in self.tasks for item in task.items]

    @property
    def rows(self) -> list[Row]:
        return [row for item in self.items for row in _rows(item)]

    @property
    def item_count(self) -> int:
        return len(self.items)

    async def score(self, answers: Answers) -> SuiteScores:
        """Means and paired differences over all items, and over each task's."""
        return await asyncio.to_thread(self._score, answers)

    def _score(self, answers: Answers) -> SuiteScores:
        by_task = {
            task: {
                arm: task.scores({item.item_id: [said(given, row) for row in _rows(item)] for item in task.items})
                for arm, given in answers.items()
            }
            for task in self.tasks
        }
        together = {arm: [value for values in by_task.values() for value in values[arm]] for arm in answers}
        slices = {f"{NAME}:{task.name}": self._results(task.items, values) for task, values in by_task.items()}
        return SuiteScores(self._results(self.items, together), slices)

    def _results(self, items: Sequence[LmItem], values: Mapping[Arm, Scores]) -> MetricResults:
        scores = {(LM_EVAL, arm): found for arm, found in values.items()}
        return paired_results(scores, PairedRows([item.item_id for item in items], self.seed, self.n_resamples))


def serialise(tasks: Sequence[LmTask]) -> bytes:
    """The same prompts, however they were made, give the same bytes; their digest is the suite's."""
    found = [{"task": task.name, "version": task.version, "metric": task.metric, "items": task.items} for task in tasks]
    return json.dumps(found, sort_keys=True, ensure_ascii=False, default=vars).encode()


def _rows(item: LmItem) -> list[Row]:
    found = []
    for number, request in enumerate(item.requests):
        row_id = f"{item.item_id}/{number}"
        if request.scored is None:
            found.append(text_row(NAME, row_id, item.item_id, request.shown))
        else:
            found.append(scored_row(NAME, row_id, item.item_id, request.shown, request.scored))
    return found
