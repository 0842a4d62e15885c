"""Scores by row, and the results made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metric_details import MetricDetails
from luthierd.evaluator.domain.metrics import Metric
from luthierd.statistics.estimates import CommonRows, Difference, Interval, Mean


class ScoreFailedError(Exception):
    """A row has no score. `reason` is UPPER_SNAKE and says whose fault it is: JUDGE_..., NO_SOURCES, ..."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Score:
    """One metric on one answer. `value` is None when the row failed; it then counts as 0, the worst score."""

    row_id: str
    value: float | None
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class MetricResult(Mean):
    """One metric of one arm. `scored_value` is the mean over scored rows only, None without any."""

    arm: Arm
    metric: Metric
    scored_value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison(Difference):
    """One metric of `arm` minus that of `reference`. `adjusted_p_value` is Holm's, over all comparisons of the same
    rows.
    """

    metric: Metric
    arm: Arm
    reference: Arm
    common: CommonRows | None = None
    adjusted_p_value: float | None = None


@dataclass(frozen=True, kw_only=True)
class ArmCost:
    """What an arm took; latency is what a caller saw at the evaluation's concurrency. `busy_s` is the arm's share of
    the seconds in which the machine had anything in flight (`costs.shared_s`). Intervals are None with too few answers.
    """

    arm: Arm
    answered_count: int
    failed_count: int
    ttft_ms_p50: float
    latency_ms_p50: float
    latency_ms_p95: float
    prompt_tokens_mean: float
    completion_tokens_mean: float
    busy_s: float
    cost_per_1000_answers: float
    cached_count: int = 0
    ttft_ms_p50_interval: Interval | None = None
    latency_ms_p50_interval: Interval | None = None
    latency_ms_p95_interval: Interval | None = None


@dataclass(frozen=True)
class Confusion:
    """Counts of (reference label, predicted label); a prediction outside the references' labels is `OTHER`."""

    OTHER = "(other)"
    labels: tuple[str, ...]
    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True)
class RowScores:
    """Every score of one arm under one metric, in the order of the rows."""

    arm: Arm
    metric: Metric
    scores: Sequence[Score]

    @property
    def values(self) -> list[float | None]:
        """The scores alone, None where a row failed."""
        return [score.value for score in self.scores]


@dataclass(frozen=True)
class MetricResults:
    """What was found on some rows: metrics of arms, and differences between arms."""

    metrics: Sequence[MetricResult]
    comparisons: Sequence[Comparison]
    row_count: int = 0
    group_count: int = 0

    def metric(self, arm: Arm, metric: Metric) -> MetricResult | None:
        """The result of one arm, if there is one."""
        return next((found for found in self.metrics if found.arm is arm and found.metric == metric), None)

    def comparison(self, metric: Metric, arm: Arm, reference: Arm) -> Comparison | None:
        """The paired difference of two arms, if there is one."""
        wanted = (metric, arm, reference)
        return next((c for c in self.comparisons if (c.metric, c.arm, c.reference) == wanted), None)


@dataclass(frozen=True)
class Scored:
    """Everything that scoring found. `confusions` is empty for tasks without labels; `slices` holds the figures of
    parts of the rows, largest first.
    """

    rows: Sequence[RowScores]
    overall: MetricResults
    confusions: Mapping[Arm, Confusion]
    metric_details: MetricDetails = field(default_factory=MetricDetails)
    slices: Mapping[str, MetricResults] = field(default_factory=dict)


@dataclass(frozen=True)
class SuiteFigure:
    """A quantity of a suite that is not a metric, or a part of one. `interval` is None with too few groups."""

    arm: Arm
    quantity: str
    value: float
    interval: Interval | None
    item_count: int


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """What was asked beyond the holdout: its digest, and a blob with the rows and answers (as `answers_sha256`)."""

    suite: str
    sha256: str
    item_count: int
    answers_sha256: str
    left_out_count: int = 0
    figures: Sequence[SuiteFigure] = ()
