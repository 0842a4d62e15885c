"""What an evaluation is told about measuring (task, judge, rubric), and what measuring says about itself (labels,
judge, style). Frozen values; stdlib only.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from luthierd.evaluator.domain.metrics import CHOICE_ACCURACY, FIELD_F1, LABEL_ACCURACY, RUBRIC, Metric


class TaskKind(enum.StrEnum):
    """What an answer is. AUTO: found from the references."""

    AUTO = "unspecified"
    GENERATION = "generation"
    CLASSIFICATION = "classification"
    EXTRACTION = "extraction"
    MULTIPLE_CHOICE = "multiple_choice"
    PREFERENCE = "preference"
    RUBRIC = "rubric"

    @property
    def is_chosen(self) -> bool:
        """True where an answer is chosen by its log-probability, and nothing is generated."""
        return self in (TaskKind.MULTIPLE_CHOICE, TaskKind.PREFERENCE)

    @property
    def decisive(self) -> Metric | None:
        """The metric that decides such a task; None where the references tell (`TaskSpec.primary_metric`)."""
        return {
            TaskKind.CLASSIFICATION: LABEL_ACCURACY,
            TaskKind.EXTRACTION: FIELD_F1,
            TaskKind.MULTIPLE_CHOICE: CHOICE_ACCURACY,
            TaskKind.PREFERENCE: CHOICE_ACCURACY,
            TaskKind.RUBRIC: RUBRIC,
        }.get(self)


@dataclass(frozen=True)
class JudgeChoice:
    """Who judges: `endpoint` or `target`, never both; both empty: the base model. `model` empty: the endpoint's."""

    endpoint: str = ""
    target: str = ""
    model: str = ""
    max_tokens: int = 512

    @property
    def name(self) -> str:
        return self.endpoint or self.target


@dataclass(frozen=True)
class Criterion:
    """One line of a rubric: graded from 1 to `scale`."""

    name: str
    description: str
    scale: int = 5


@dataclass(frozen=True)
class Share:
    """A mean in 0 to 1 with the ends of its 95 % interval; None with too few groups."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ClassMetrics:
    """How well one label was told from the others."""

    label: str
    row_count: int
    precision: Share
    recall: Share
    f1: float


@dataclass(frozen=True)
class ConfusionCell:
    """Rows of one reference label that were called another, or the same."""

    reference: str
    predicted: str
    count: int


@dataclass(frozen=True)
class LabelReport:
    """The labels that one arm gave."""

    precision_macro: float
    recall_macro: float
    classes: tuple[ClassMetrics, ...] = ()
    confusion: tuple[ConfusionCell, ...] = ()


@dataclass(frozen=True)
class CriterionValue:
    """One criterion's mean grade of one arm, 0 to 1, over the graded rows; `coverage` is their share."""

    name: str
    grade: Share
    coverage: float


@dataclass(frozen=True, kw_only=True)
class JudgeReport:
    """What the judge did. Counts of questions; `first_position_share` is None without pairs."""

    judge: str
    model: str = ""
    prompts_sha256: str = ""
    call_count: int = 0
    cached_count: int = 0
    parse_failure_count: int = 0
    failure_counts: Mapping[str, int] = field(default_factory=dict)
    pair_count: int = 0
    disagreement_count: int = 0
    first_position_share: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class StyleReport:
    """The classifier behind `style`: balanced accuracy on texts it did not learn from, .5 is chance."""

    held_out_accuracy: float
    own_count: int
    base_count: int


@dataclass(frozen=True)
class MetricDetails:
    """Details found while scoring, by arm where arms differ."""

    labels: Mapping[str, LabelReport] = field(default_factory=dict)
    criteria: Mapping[str, tuple[CriterionValue, ...]] = field(default_factory=dict)
    failures: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    """Rows without a score: by arm, metric, reason."""
    judge: JudgeReport | None = None
    style: StyleReport | None = None
