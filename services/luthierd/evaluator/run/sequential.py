"""An evaluation in rounds of whole groups in random order; after each, an arm whose differences are all decided stops.

A target's chance of being wrong, .05 in all, is spent twice: .01 on a confidence sequence that may end it after any
round, .04 on the ordinary interval over all rows. Giving up (FUTILE) claims nothing and costs only power.
Everything is a function of rows, seed and scores: a resumed evaluation decides the same.

Where arms answered different numbers of rows, a mean is over the arm's rows and a difference over those of both.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from luthierd.errors import FailedPreconditionError
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metric_details import MetricDetails
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Answer, Row, TaskSpec
from luthierd.evaluator.domain.scores import Comparison, Confusion, MetricResult, MetricResults, RowScores, Scored
from luthierd.evaluator.domain.sequential import SequentialDecision, SequentialOutcome, SequentialTarget
from luthierd.evaluator.scorers.scorer import Scorer
from luthierd.evaluator.scorers.scoring import Scoring
from luthierd.statistics import clustered
from luthierd.statistics import confidence_sequences as sequences
from luthierd.statistics.compare import PairedRows, Scores, clipped, filled, filled_reference, paired_differences
from luthierd.statistics.estimates import Interval

# Together .05. By simulation (docs/decisions/0013) a larger share for the sequence ends large differences hardly sooner
# and proves fewer small ones.
SEQUENCE_ALPHA = 0.01
FINAL_CONFIDENCE = 0.96
FUTILE_PROBABILITY = 0.05
"""Of proving anything with all rows. At .1 a few more queries are saved and twice as many small differences lost."""

Answers = Mapping[Arm, Mapping[str, Answer]]
RoundScores = Mapping[tuple[Metric, Arm], Scores]
# Generates the answers of these arms to these rows: arm -> row id -> answer.
GenerateRows = Callable[[Sequence[Arm], Sequence[Row]], Awaitable[Answers]]
# The same, and scores them: one score a row for each (metric, arm).
ScoreRound = Callable[[Sequence[Arm], Sequence[Row]], Awaitable[RoundScores]]


@dataclass(frozen=True)
class Rounds:
    """Rows in the order of generation, how many of them each arm got, and what was decided."""

    rows: Sequence[Row]
    row_counts: Mapping[Arm, int]
    decisions: tuple[SequentialDecision, ...]


def rounds_of(rows: Sequence[Row], round_size: int, *, seed: int) -> list[list[Row]]:
    """The rows by rounds of whole groups, each of at least `round_size` rows (the last one of what is left)."""
    by_group: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_group[row.group].append(row)
    order = sorted(by_group)
    random.Random(f"sequential {seed}").shuffle(order)  # noqa: S311
    rounds: list[list[Row]] = [[]]
    for group in order:
        if len(rounds[-1]) >= round_size:
            rounds.append([])
        rounds[-1].extend(by_group[group])
    return rounds


async def run_rounds(
    rounds: Sequence[Sequence[Row]], arms: Sequence[Arm], targets: Sequence[SequentialTarget], score: ScoreRound
) -> Rounds:
    """Goes on until every target is decided or all rows were used. Every arm must be in a target."""
    seen = _Seen(len({row.group for batch in rounds for row in batch}))
    decided: dict[SequentialTarget, SequentialDecision] = {}
    row_counts = dict.fromkeys(arms, 0)
    for number, batch in enumerate(rounds, start=1):
        open_targets = [target for target in targets if target not in decided]
        wanted = [arm for arm in arms if any(arm in (target.arm, target.reference) for target in open_targets)]
        if not wanted:
            break
        seen.add(batch, await score(wanted, batch))
        for arm in wanted:
            row_counts[arm] += len(batch)
        for target in open_targets:
            decision = seen.decide(target, round_count=number, is_last=number == len(rounds))
            if decision is not None:
                decided[target] = decision
    rows = [row for batch in rounds for row in batch]
    return Rounds(rows, row_counts, tuple(decided[target] for target in targets))


def sequence_of_differences(values: Sequence[float], groups: Sequence[str], total_group_count: int) -> Interval | None:
    """The interval of a mean difference that holds after every round."""
    mean = sequences.group_mean(values, groups, value_range=2.0)
    return _running(mean, total_group_count)


def _running(mean: sequences.GroupMean, total_group_count: int) -> Interval | None:
    # Large differences end before the middle of the rows and small ones after it.
    return sequences.running_interval(mean, alpha=SEQUENCE_ALPHA, tuned_group_count=total_group_count / 2)


@dataclass
class _Seen:
    """The rows and scores so far. An arm that is not decided has them all."""

    total_group_count: int
    rows: list[Row] = field(default_factory=list)
    values: dict[tuple[Metric, Arm], list[float | None]] = field(default_factory=lambda: defaultdict(list))

    def add(self, batch: Sequence[Row], scored: RoundScores) -> None:
        self.rows.extend(batch)
        for key, values in scored.items():
            self.values[key].extend(values)

    def decide(self, target: SequentialTarget, *, round_count: int, is_last: bool) -> SequentialDecision | None:
        """The decision, or None to go on."""
        differences = paired_differences(
            self.values[target.metric, target.arm], self.values[target.metric, target.reference]
        )
        mean = sequences.group_mean(differences, [row.group for row in self.rows], value_range=2.0)
        interval = _running(mean, self.total_group_count)
        outcome = self._outcome(target, mean, interval, is_last=is_last)
        if outcome is None:
            return None
        return SequentialDecision(
            target=target,
            outcome=outcome,
            row_count=len(self.rows),
            group_count=mean.group_count,
            round_count=round_count,
            difference=mean.value,
            interval=interval,
        )

    def _outcome(
        self, target: SequentialTarget, mean: sequences.GroupMean, interval: Interval | None, *, is_last: bool
    ) -> SequentialOutcome | None:
        if is_last:
            return SequentialOutcome.EXHAUSTED
        if interval is None:
            return None
        if interval.low > target.at_least:
            return SequentialOutcome.ABOVE
        if interval.high < target.at_least:
            return SequentialOutcome.BELOW
        chance = sequences.proof_probability(
            mean,
            at_least=target.at_least,
            total_group_count=self.total_group_count,
            confidence=FINAL_CONFIDENCE,
        )
        return SequentialOutcome.FUTILE if chance < FUTILE_PROBABILITY else None


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
    """Generates by `generate` until the targets are decided."""

    config: EvaluationConfig
    scoring: Scoring
    generate: GenerateRows
    answers: dict[Arm, dict[str, Answer]] = field(default_factory=dict)

    async def run(self, rows: Sequence[Row]) -> Rounds:
        """Runs all rounds; `answers` then holds the answers."""
        assert self.config.sequential is not None
        targets = targets_of(self.config, self.scoring.task)
        scorers = self.scoring.applicable(rows)
        known = [scorer.metric for scorer in scorers]
        for target in targets:
            if target.metric not in known:
                raise MetricNotMeasuredError(target.metric, known)
        self.answers.update({arm: {} for arm in self.config.arms})

        async def score_round(arms: Sequence[Arm], batch: Sequence[Row]) -> RoundScores:
            given = await self.generate(arms, batch)
            for arm, found in given.items():
                self.answers[arm].update(found)
            return await self._score(arms, batch, given, targets, scorers)

        rounds = rounds_of(rows, self.config.sequential.round_size, seed=self.config.seed)
        return await run_rounds(rounds, self.config.arms, targets, score_round)

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


async def score_sequential(scoring: Scoring, rounds: Rounds, answers: Answers) -> Scored:
    """Where an arm ended early its intervals hold after every round; macro-F1, no mean over rows, then has none."""
    rows: list[RowScores] = []
    metrics: list[MetricResult] = []
    comparisons: list[Comparison] = []
    confusions: dict[Arm, Confusion] = {}
    metric_details: MetricDetails | None = None
    counts = rounds.row_counts
    for count in sorted({count for count in counts.values() if count}):
        prefix = rounds.rows[:count]
        scored = await scoring.score(prefix, {arm: given for arm, given in answers.items() if counts[arm] >= count})
        own = {arm for arm in answers if counts[arm] == count}
        shown = _Prefix(scoring, rounds, prefix, scored)
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
    rounds: Rounds
    rows: Sequence[Row]
    scored: Scored

    @property
    def groups(self) -> list[str]:
        return [row.group for row in self.rows]

    @property
    def total_group_count(self) -> int:
        return len({row.group for row in self.rounds.rows})

    @property
    def is_whole(self) -> bool:
        return len(self.rows) == len(self.rounds.rows)

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
