"""Tasks of lm-evaluation-harness as a suite: each document an item, each task a slice, base against adapter.

`lm_eval` is the mean over all items of all tasks, the slices `lm_eval:TASK` those over a task's. A document of which
one request failed is failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Answer, Message, Row
from luthierd.evaluator.domain.scores import MetricResults
from luthierd.evaluator.models.generate import ChatModel
from luthierd.evaluator.scorers.suite_metrics import LM_EVAL
from luthierd.evaluator.suites.lm_harness import LmItem, LmTask
from luthierd.evaluator.suites.retention_suite import SCORED, SHOWN
from luthierd.evaluator.suites.suite import ID_PREFIX, Answers, PlainPlan, SuiteGenerator, paired_results
from luthierd.statistics.compare import PairedRows

NAME = "lm_eval"


@dataclass(frozen=True)
class LmFigures:
    """Over all items, and by task."""

    figures: MetricResults
    slices: Mapping[str, MetricResults]


@dataclass(frozen=True)
class LmSuite:
    """Asks and measures the tasks' items."""

    tasks: Sequence[LmTask]
    seed: int
    n_resamples: int

    @property
    def items(self) -> list[LmItem]:
        """Of all tasks, in order."""
        return [item for task in self.tasks for item in task.items]

    @property
    def rows(self) -> list[Row]:
        """Everything that is asked, in order."""
        return [row for item in self.items for row in _rows(item)]

    def serialise(self) -> bytes:
        """The same prompts, whatever made them, give the same bytes; their digest is the suite's."""
        found = [
            {"task": task.name, "version": task.version, "metric": task.metric, "items": task.items}
            for task in self.tasks
        ]
        return json.dumps(found, sort_keys=True, ensure_ascii=False, default=vars).encode()

    async def generate(self, generator: SuiteGenerator, likelihoods: ChatModel, arms: Sequence[Arm]) -> Answers:
        """The answers of each arm to each row; those to scored rows are log-probabilities."""
        scoring = SuiteGenerator(replace(generator.generator, chat_model=likelihoods), generator.samples)
        is_scored = {row.id: any(message.role == SCORED for message in row.prompt) for row in self.rows}
        asked = await generator.generate(arms, [row for row in self.rows if not is_scored[row.id]], PlainPlan())
        scored = await scoring.generate(arms, [row for row in self.rows if is_scored[row.id]], PlainPlan())
        return {arm: {**asked[arm], **scored[arm]} for arm in arms}

    def measure(self, answers: Answers) -> LmFigures:
        """Means and paired differences over all items, and over each task's."""
        by_task = {
            task: {
                arm: task.scores({item.item_id: _said(item, given) for item in task.items})
                for arm, given in answers.items()
            }
            for task in self.tasks
        }
        together = {arm: [value for values in by_task.values() for value in values[arm]] for arm in answers}
        slices = {f"{NAME}:{task.name}": self._figures(task.items, values) for task, values in by_task.items()}
        return LmFigures(self._figures(self.items, together), slices)

    def _figures(self, items: Sequence[LmItem], values: Mapping[Arm, Sequence[float | None]]) -> MetricResults:
        scores = {(LM_EVAL, arm): found for arm, found in values.items()}
        return paired_results(scores, PairedRows([item.item_id for item in items], self.seed, self.n_resamples))


def _rows(item: LmItem) -> list[Row]:
    found = []
    for number, request in enumerate(item.requests):
        prompt = [Message("user", request.shown)]
        if request.scored is not None:
            prompt = [Message(SHOWN, request.shown), Message(SCORED, request.scored)]
        found.append(Row(f"{ID_PREFIX}{NAME}/{item.item_id}/{number}", item.item_id, None, tuple(prompt), ""))
    return found


def _said(item: LmItem, given: Mapping[str, Answer]) -> list[str | None]:
    answers = [given.get(row.id) for row in _rows(item)]
    return [None if answer is None or answer.error is not None else answer.text for answer in answers]
