"""What a suite is: rows beyond the holdout, generated after it, whose scores are added to the holdout's.

A suite is one module of this package with a subclass of `Suite`; importing the module registers it, and `run.py` runs
every suite that the configuration asks for. Samples are stored, so no query is paid for twice.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self

import numpy as np

from luthierd.errors import InternalError
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Answer, Message, Row
from luthierd.evaluator.domain.scores import Comparison, MetricResult, MetricResults, SuiteFigure
from luthierd.evaluator.domain.suites import LmEvalConfig
from luthierd.evaluator.models.arms import ArmPlan
from luthierd.evaluator.models.generate import ChatModel
from luthierd.evaluator.scorers.metric_table import adjusted
from luthierd.evaluator.scorers.registry import spec_of
from luthierd.evaluator.scorers.scoring import Scoring
from luthierd.evaluator.suites.lm_harness import LmTask
from luthierd.statistics import clustered
from luthierd.statistics.clustered import GroupSums
from luthierd.statistics.compare import PairedRows, Scores
from luthierd.storage.blobs import BlobStore

AGAINST_BASE = tuple((arm, Arm.BASE) for arm in Arm if arm is not Arm.BASE)
"""Every arm that a suite runs, against base."""
ID_PREFIX = "suite:"
"""Ids of suites' rows among the samples; a dataset's ids do not begin so."""
# Roles of a query that is scored instead of answered; no chat has them.
SHOWN, SCORED = "shown", "scored"

Answers = Mapping[Arm, Mapping[str, Answer]]


class RetentionSuiteCatalogue(Protocol):
    """Which blob holds the retention suite of a base model."""

    async def find(self, base_model_sha256: str, item_count: int) -> str | None: ...

    async def add(self, base_model_sha256: str, item_count: int, *, blob_sha256: str) -> None: ...


@dataclass(frozen=True)
class SuiteParts:
    """What suites need beyond the evaluation. `likelihoods` answers a query of the roles SHOWN and SCORED with the
    scored text's log-probability in nats; `lm_tasks` reads tasks of lm-eval and is CPU-bound.
    """

    likelihoods: ChatModel
    catalogue: RetentionSuiteCatalogue
    lm_tasks: Callable[[LmEvalConfig], Sequence[LmTask]]


@dataclass(frozen=True, kw_only=True)
class SuiteContext:
    """The evaluation that a suite belongs to. `rows` are the holdout's, `train` those that may be shown; `plan` builds
    what each arm shows next to other rows, and is CPU-bound.
    """

    config: EvaluationConfig
    inputs: EvaluationInputs
    blobs: BlobStore
    scoring: Scoring
    plan: Callable[[Sequence[Row]], ArmPlan]
    rows: Sequence[Row]
    train: Sequence[Row]
    parts: SuiteParts | None = None

    @property
    def needed_parts(self) -> SuiteParts:
        """InternalError without any."""
        if self.parts is None:
            raise InternalError("this suite needs the likelihood of texts, and none was given to this run")
        return self.parts

    def paired(self, groups: Sequence[str]) -> PairedRows:
        """Rows of a suite with these groups."""
        return PairedRows(groups, self.config.seed, self.config.resample_count)

    async def put(self, data: bytes) -> str:
        """The digest of a new blob."""
        return (await asyncio.to_thread(self.blobs.put_bytes, data)).sha256


@dataclass(frozen=True)
class SuiteScores:
    """`overall` and `slices` are added to those of the holdout, under the suite's metrics; `figures` are quantities
    that are no metric of 0 to 1.
    """

    overall: MetricResults
    slices: Mapping[str, MetricResults] = field(default_factory=dict)
    figures: Sequence[SuiteFigure] = ()


class Suite(abc.ABC):
    """A suite of one evaluation. Subclasses are registered by their name."""

    registered: ClassVar[dict[str, type[Suite]]] = {}

    name: ClassVar[str]
    # The field of `EvaluationConfig` that asks for it; empty: an entry of `suites`, whose settings `of` reads.
    config_field: ClassVar[str] = ""
    # Its place among the suites of an evaluation.
    order: ClassVar[int] = 100
    # True: every arm is run as on the holdout. False: each set of weights once, with the rows' prompts as they are.
    runs_every_arm: ClassVar[bool] = False

    sha256: str
    left_out_count: int = 0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Suite.registered[cls.name] = cls

    @classmethod
    @abc.abstractmethod
    async def of(cls, context: SuiteContext) -> Self | None:
        """The suite that the configuration asks for; None if it does not."""

    @classmethod
    def problem(cls, settings: Mapping[str, str]) -> str:
        """What is wrong with the settings of an entry of `suites`; empty if nothing."""
        return f"the suite {cls.name} has no settings" if settings else ""

    @property
    @abc.abstractmethod
    def rows(self) -> Sequence[Row]:
        """What is generated, or scored where a prompt has the roles SHOWN and SCORED."""

    @property
    @abc.abstractmethod
    def item_count(self) -> int: ...

    @abc.abstractmethod
    async def score(self, answers: Answers) -> SuiteScores:
        """What the answers of each arm, by row id, come to. A row that was not answered is missing or has an error."""


def text_row(suite: str, item_id: str, group: str, prompt: str) -> Row:
    """A row whose answer is generated."""
    return Row(
        id=f"{ID_PREFIX}{suite}/{item_id}", group=group, label=None, prompt=(Message("user", prompt),), reference=""
    )


def scored_row(suite: str, item_id: str, group: str, shown: str, scored: str) -> Row:
    """A row whose answer is the log-probability of `scored` after `shown`."""
    return Row(
        id=f"{ID_PREFIX}{suite}/{item_id}",
        group=group,
        label=None,
        prompt=(Message(SHOWN, shown), Message(SCORED, scored)),
        reference="",
    )


def said(given: Mapping[str, Answer], row: Row) -> str | None:
    """The answer's text; None where it failed."""
    answer = given.get(row.id)
    return None if answer is None or answer.error is not None else answer.text


def paired_results(
    scores: Mapping[tuple[Metric, Arm], Scores], rows: PairedRows, pairs: Sequence[tuple[Arm, Arm]] = AGAINST_BASE
) -> MetricResults:
    """The mean of each arm under each metric, and the differences of the pairs of which both arms are there."""
    metrics = [
        MetricResult(arm=arm, metric=metric, **vars(rows.mean(values, is_proportion=spec_of(metric).is_proportion)))
        for (metric, arm), values in scores.items()
    ]
    comparisons = [
        Comparison(metric=metric, arm=arm, reference=reference, **vars(rows.difference(own, other)))
        for metric in dict.fromkeys(metric for metric, _ in scores)
        for arm, reference in pairs
        if (own := scores.get((metric, arm))) is not None and (other := scores.get((metric, reference))) is not None
    ]
    return MetricResults(metrics, comparisons, len(rows.groups), len(set(rows.groups)))


def ratio_of(numerators: Sequence[float], denominators: Sequence[float], groups: Sequence[str]) -> GroupSums:
    """The ratio of two sums over rows; NaN in a resample whose denominator is 0."""
    sums = [clustered.mean_of(values, groups).sums[:, 0] for values in (numerators, denominators)]

    def ratio(drawn: clustered.Array) -> clustered.Array:
        empty = np.full(len(drawn), np.nan)
        return np.asarray(np.divide(drawn[:, 0], drawn[:, 1], out=empty, where=drawn[:, 1] != 0), dtype=np.float64)

    return GroupSums(np.stack(sums, axis=1), ratio)


def merged(results: Sequence[MetricResults]) -> MetricResults:
    """All of them as one, with the p-values corrected for all; the counts are those of the largest."""
    return MetricResults(
        [metric for one in results for metric in one.metrics],
        adjusted([comparison for one in results for comparison in one.comparisons]),
        max((one.row_count for one in results), default=0),
        max((one.group_count for one in results), default=0),
    )
