"""A sequential evaluation as part of a run: which differences it decides, how a round is asked and scored, and the
figures of arms that answered different numbers of rows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from luthierd.errors import FailedPreconditionError
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metric_details import MetricDetails
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Answer, Row, TaskSpec
from luthierd.evaluator.domain.scores import Comparison, Confusion, MetricResult, MetricResults, RowScores, Scored
from luthierd.evaluator.domain.sequential import SequentialTarget
from luthierd.evaluator.run.sequential_rounds import (
    FINAL_CONFIDENCE,
    SequentialAsked,
    ask_in_rounds,
    rounds_of,
    sequence_of_differences,
)
from luthierd.evaluator.scorers.scorer import Scorer
from luthierd.evaluator.scorers.scoring import Scoring
from luthierd.statistics import clustered
from luthierd.statistics import confidence_sequences as sequences
from luthierd.statistics.compare import PairedRows, clipped, filled, filled_reference, paired_differences

Answers = Mapping[Arm, Mapping[str, Answer]]
# Asks these rows of these arms and returns the answers, arm -> row id -> answer.
AskRows = Callable[[Sequence[Arm], Sequence[Row]], Awaitable[Answers]]


class MetricNotMeasuredError(FailedPreconditionError):
    """A target of a sequential evaluation has no scores here."""

    reason = "SEQUENTIAL_METRIC_NOT_MEASURED"

    def __init__(self, metric: Metric, known: Sequence[Metric]) -> None:
        super().__init__(
            f"the rows have no {metric}, which a sequential target names; choose one of {', '.join(known)}",
            metadata={"metric": metric, "known": ",".join(known)},
        )


def targets_of(config: EvaluationConfig, task: TaskSpec) -> tuple[SequentialTarget, ...]:
    """The differences to decide: the configured ones, else the primary metric of the adapter against the others."""
    assert config.sequential is not None
    if config.sequential.targets:
        return config.sequential.targets
    subject = next((arm for arm in (Arm.ADAPTER, Arm.ADAPTER_RAG) if arm in config.arms), config.arms[0])
    return tuple(SequentialTarget(task.primary_metric, subject, arm) for arm in config.arms if arm is not subject)


@dataclass(frozen=True)
class SequentialRun:
    """Asks by `ask` until the targets are decided."""

    config: EvaluationConfig
    scoring: Scoring
    ask: AskRows
    answers: dict[Arm, dict[str, Answer]] = field(default_factory=dict)

    async def run(self, rows: Sequence[Row]) -> SequentialAsked:
        """What was asked; `answers` then holds the answers."""
        assert self.config.sequential is not None
        targets = targets_of(self.config, self.scoring.task)
        scorers = self.scoring.applicable(rows)
        known = [scorer.metric for scorer in scorers]
        for target in targets:
            if target.metric not in known:
                raise MetricNotMeasuredError(target.metric, known)
        self.answers.update({arm: {} for arm in self.config.arms})

        async def ask_round(
            arms: Sequence[Arm], batch: Sequence[Row]
        ) -> Mapping[tuple[Metric, Arm], Sequence[float | None]]:
            given = await self.ask(arms, batch)
            for arm, found in given.items():
                self.answers[arm].update(found)
            return await self._score(arms, batch, given, targets, scorers)

        rounds = rounds_of(rows, self.config.sequential.round_size, seed=self.config.seed)
        return await ask_in_rounds(rounds, self.config.arms, targets, ask_round)

    async def _score(
        self,
        arms: Sequence[Arm],
        batch: Sequence[Row],
        given: Answers,
        targets: Sequence[SequentialTarget],
        scorers: Sequence[Scorer],
    ) -> dict[tuple[Metric, Arm], Sequence[float | None]]:
        wanted = {(target.metric, arm) for target in targets for arm in (target.arm, target.reference) if arm in arms}
        return {
            (metric, arm): await self.scoring.values(metric, arm, batch, given[arm], scorers)
            for metric, arm in sorted(wanted)
        }


async def score_sequential(scoring: Scoring, asked: SequentialAsked, answers: Answers) -> Scored:
    """Figures where arms answered different numbers of rows: a mean is over the arm's own rows, a difference over those
    of both. Where an arm ended early its intervals hold at every look; macro-F1, no mean over rows, then has none.
    """
    rows: list[RowScores] = []
    metrics: list[MetricResult] = []
    comparisons: list[Comparison] = []
    confusions: dict[Arm, Confusion] = {}
    metric_details: MetricDetails | None = None
    counts = asked.row_counts
    for count in sorted({count for count in counts.values() if count}):
        prefix = asked.rows[:count]
        scored = await scoring.score(prefix, {arm: given for arm, given in answers.items() if counts[arm] >= count})
        own = {arm for arm in answers if counts[arm] == count}
        shown = _Prefix(scoring, asked, prefix, scored)
        # Reports of labels, judge and style are of the rows that every arm answered.
        metric_details = scored.metric_details if metric_details is None else metric_details
        rows += [found for found in scored.rows if found.arm in own]
        metrics += [shown.metric(found) for found in scored.overall.metrics if found.arm in own]
        comparisons += [
            shown.comparison(found) for found in scored.overall.comparisons if own & {found.arm, found.reference}
        ]
        confusions |= {arm: found for arm, found in scored.confusions.items() if arm in own}
    return Scored(rows, MetricResults(metrics, comparisons), confusions, metric_details or MetricDetails())


@dataclass(frozen=True)
class _Prefix:
    """The rows that some arms answered, in the order of asking."""

    scoring: Scoring
    asked: SequentialAsked
    rows: Sequence[Row]
    scored: Scored

    @property
    def groups(self) -> list[str]:
        return [row.group for row in self.rows]

    @property
    def total_group_count(self) -> int:
        return len({row.group for row in self.asked.rows})

    @property
    def is_whole(self) -> bool:
        return len(self.rows) == len(self.asked.rows)

    def values(self, metric: Metric, arm: Arm) -> list[float | None] | None:
        return next((one.values for one in self.scored.rows if one.metric == metric and one.arm is arm), None)

    def metric(self, found: MetricResult) -> MetricResult:
        if self.is_whole:
            return found
        values = self.values(found.metric, found.arm)
        if values is None:
            return replace(found, interval=None)
        mean = sequences.group_mean(filled(values), self.groups, value_range=1.0)
        interval = sequences.running_interval(
            mean, alpha=1 - clustered.CONFIDENCE, tuned_group_count=self.total_group_count / 2
        )
        return replace(found, interval=clipped(interval, 0.0, 1.0))

    def comparison(self, found: Comparison) -> Comparison:
        own, other = self.values(found.metric, found.arm), self.values(found.metric, found.reference)
        if own is None or other is None:
            return found if self.is_whole else replace(found, interval=None)
        differences = paired_differences(own, other)
        if not self.is_whole:
            interval = sequence_of_differences(differences, self.groups, self.total_group_count)
            return replace(found, interval=clipped(interval, -1.0, 1.0))
        rows = PairedRows(self.groups, self.scoring.seed, self.scoring.n_resamples, FINAL_CONFIDENCE)
        interval = rows.interval(rows.sums(filled(own)), rows.sums(filled_reference(own, other)))
        return replace(found, interval=interval)
