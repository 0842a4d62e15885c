"""What a scorer is, how it is registered, and the one way to run it: a row that cannot be scored stays, as a failed
score, and is never dropped.

A metric is one module of this package: a `Scorer` with its `MetricSpec`, decorated with `register`.
"""

from __future__ import annotations

import abc
import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from luthierd.errors import FieldViolation
from luthierd.evaluator.dataset.parsing import ParsedAnswer
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Row, TaskSpec
from luthierd.evaluator.domain.scores import Score, ScoreFailedError
from luthierd.evaluator.graders.judge import Judge
from luthierd.evaluator.models.arms import Query


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a metric takes beyond answers and references."""

    opt_in: bool = False
    """It is computed only where the configuration names it."""
    judge: bool = False
    asks: bool = False
    """It puts additional questions to the arms; see `Scorer.perturbed`."""
    base: bool = False
    """It needs the base arm's answers."""
    suite: bool = False
    """It comes with a suite of the configuration (docs/evaluation-suites.md)."""
    context: bool = False
    """It means something only for arms that were shown passages."""


@dataclass(frozen=True)
class MetricSpec:
    """What is known of a metric. `rank`: its place in reports and defaults; ties go by name."""

    metric: Metric
    rank: int = 1000
    label: str = ""
    is_proportion: bool = False
    """Every row scores 0 or 1, so that score intervals for proportions apply."""
    needs: Needs = Needs()

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.label or self.metric.replace("_", " ").capitalize()


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One row to score. `answer` is None where the query failed; `failure` then says why.

    `raw`: the answer as it came. `shown`: the training rows that stood in the prompt. `perturbations`: the same arm's
    answers to the additional questions of `Scorer.perturbed`, by name; one that failed is absent.
    """

    row_id: str
    reference: ParsedAnswer
    answer: ParsedAnswer | None
    failure: str | None = None
    arm: Arm = Arm.BASE
    row: Row | None = None
    raw: str = ""
    shown: tuple[Row, ...] = ()
    perturbations: Mapping[str, str] = field(default_factory=dict)

    @property
    def said(self) -> ParsedAnswer:
        """The answer; ScoreFailedError where there is none, so that a scorer cannot forget to ask."""
        if self.answer is None:
            raise ScoreFailedError(self.failure or "NO_ANSWER")
        return self.answer

    @property
    def question(self) -> str:
        """The text of the question; empty where the sample has no row."""
        return self.row.question if self.row else ""


@dataclass(frozen=True)
class Passages:
    """What an answer may rest on: training rows and documents, by id, as texts."""

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


class TextEmbedder(Protocol):
    """Turns texts into unit vectors, one row a text, float32. Holds the CPU."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True, kw_only=True)
class ScoringMaterial:
    """What scorers are built from. `judge` is None where no metric needs one."""

    embedder: TextEmbedder
    config: EvaluationConfig = field(default_factory=EvaluationConfig)
    task: TaskSpec = field(default_factory=TaskSpec)
    train: Sequence[Row] = ()
    judge: Judge | None = None
    documents: Sequence[Row] = ()

    @property
    def passages(self) -> Passages:
        """What a row may name as its sources: training rows, and documents that retrieval searches."""
        return Passages({row.id: row for row in [*self.train, *self.documents]})

    @property
    def needed_judge(self) -> Judge:
        """The judge of an evaluation with a metric that needs one."""
        assert self.judge is not None
        return self.judge


class Scorer(abc.ABC):
    """Scores answers under one metric."""

    spec: ClassVar[MetricSpec]
    concurrency: int = 1
    """Above 1 it waits for a judge, and so many samples are scored at a time."""

    @classmethod
    def build(cls, material: ScoringMaterial) -> Self:
        """The scorer of an evaluation. Slow imports and models belong here, in a worker's thread."""
        return cls()

    @classmethod
    def is_default(cls, config: EvaluationConfig) -> bool:
        """Whether a configuration that names no metrics computes this one."""
        return not cls.spec.needs.opt_in and not config.task.is_chosen

    @classmethod
    def violations(cls, config: EvaluationConfig) -> Iterable[FieldViolation]:
        """What a configuration that computes this metric lacks."""
        return ()

    @property
    def metric(self) -> Metric:
        return self.spec.metric

    def applies(self, task: TaskSpec, *, labelled: bool) -> bool:
        """Whether the metric means something for these answers."""
        return True

    async def perturbed(self, queries: Sequence[Query]) -> Sequence[Query]:
        """The additional questions that it needs answers to (`perturbations.perturbed`)."""
        return ()

    async def prepare(self, samples: Sequence[Sample]) -> None:  # noqa: B027 - most scorers have nothing to batch
        """Called once with everything that will be scored, so that a scorer may batch (embeddings)."""

    @abc.abstractmethod
    async def score(self, sample: Sample) -> float:
        """The score, 0 to 1, of a sample with an answer. ScoreFailedError or any other error fails it."""


SPECS: dict[Metric, MetricSpec] = {}
SCORERS: dict[Metric, type[Scorer]] = {}
S = TypeVar("S", bound=type[Scorer])


def register(scorer: S) -> S:
    """Makes a scorer's metric known: it can be named in configurations, gates and reports."""
    SCORERS[scorer.spec.metric] = scorer
    register_spec(scorer.spec)
    return scorer


def register_spec(spec: MetricSpec) -> Metric:
    """Makes a metric known that a suite computes, or that is made of other scores. ValueError for a taken name."""
    if SPECS.setdefault(spec.metric, spec) != spec:
        raise ValueError(f"two metrics are named {spec.metric}")
    return spec.metric


async def score_all(scorer: Scorer, samples: Sequence[Sample]) -> list[Score]:
    """One score a sample, in order. NaN, RAGAS's sign of failure, is a failure here, not a gap in the mean."""
    found: list[Score | None] = [None] * len(samples)
    waiting = iter(enumerate(samples))

    async def work() -> None:
        for position, sample in waiting:
            found[position] = await _score_one(scorer, sample)
            await asyncio.sleep(0)  # scorers hold the CPU for about a millisecond; the heartbeat must get its turn

    async with asyncio.TaskGroup() as group:
        for _ in range(max(1, scorer.concurrency)):
            group.create_task(work())
    return [score for score in found if score is not None]


async def _score_one(scorer: Scorer, sample: Sample) -> Score:
    if sample.answer is None:
        return Score(sample.row_id, None, sample.failure or "NO_ANSWER")
    try:
        value = await scorer.score(sample)
    except ScoreFailedError as error:
        return Score(sample.row_id, None, error.reason)
    except Exception as error:  # a border: third-party metrics raise anything, and the row must stay in the count
        return Score(sample.row_id, None, f"SCORER_ERROR: {type(error).__name__}: {error}"[:200])
    if not math.isfinite(value):
        return Score(sample.row_id, None, "SCORER_NOT_FINITE")
    # Rounding of third-party metrics (1.0000000000000002) must not leave the range that intervals assume.
    return Score(sample.row_id, min(1.0, max(0.0, value)))
