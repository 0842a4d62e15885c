"""Scores by row, and the figures made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metric_details import MetricDetails
from luthierd.evaluator.domain.metrics import Metric
from luthierd.statistics.uncertainty import Bounds, CommonRows, Interval


@dataclass(frozen=True)
class Score:
    """One metric on one answer. `value` is None when the row failed; it then counts as 0, the worst score."""

    row_id: str
    value: float | None
    failure: str | None = None


@dataclass(frozen=True)
class MetricResult:
    """One metric of one arm. `value` counts every row, failed ones as 0; `interval` is None with too few groups;
    `scored_value` counts scored rows only, None if there are none.
    """

    arm: Arm
    metric: Metric
    value: float
    interval: Interval | None
    row_count: int
    scored_count: int
    bounds: Bounds | None = None
    scored_value: float | None = None

    @property
    def coverage(self) -> float:
        """Share of rows with an answer and a score, 0 to 1."""
        return self.scored_count / self.row_count if self.row_count else 0.0


@dataclass(frozen=True)
class Comparison:
    """`arm` minus `reference`, paired by row. No row is left out: where `arm` failed it scores 0, where `reference`
    failed the difference is 0, so that a failure never speaks for the arm under test. `minimum_detectable_effect`:
    at 80 % power; None with too few groups.

    `p_value` is two-sided, of no difference, made by `test`; `adjusted_p_value` is Holm's over all comparisons of the
    same figures. Both None with too few groups.
    """

    metric: Metric
    arm: Arm
    reference: Arm
    difference: float
    interval: Interval | None
    minimum_detectable_effect: float | None
    row_count: int
    group_count: int
    bounds: Bounds | None = None
    common: CommonRows | None = None
    p_value: float | None = None
    adjusted_p_value: float | None = None
    test: str = ""


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class MetricResults:
    """What was found on some rows: metrics of arms, and differences between arms."""

    metrics: Sequence[MetricResult]
    comparisons: Sequence[Comparison]
    row_count: int = 0
    group_count: int = 0

    def metric(self, arm: Arm, metric: Metric) -> MetricResult | None:
        """The figure of one arm, if there is one."""
        return next((found for found in self.metrics if found.arm is arm and found.metric is metric), None)

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
    """A figure of a suite that is no metric of 0 to 1, or a part of one. `interval` is None with too few groups."""

    arm: Arm
    quantity: str
    value: float
    interval: Interval | None
    item_count: int


@dataclass(frozen=True)
class SuiteResult:
    """What was asked beyond the holdout: its digest, and a blob with the rows and answers (as `answers_sha256`)."""

    suite: str
    sha256: str
    item_count: int
    answers_sha256: str
    left_out_count: int = 0
    figures: Sequence[SuiteFigure] = ()
