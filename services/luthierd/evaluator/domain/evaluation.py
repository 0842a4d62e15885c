"""An evaluation: its configuration, inputs, progress and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luthierd.errors import FailedPreconditionError
from luthierd.evaluator.domain.arm import DEFAULT_ARMS, Arm
from luthierd.evaluator.domain.holdout import HoldoutUse, LeakageReport
from luthierd.evaluator.domain.metric_details import Criterion, JudgeChoice, MetricDetails, TaskKind
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.retrieval import RetrievalSummary, Retriever
from luthierd.evaluator.domain.rows import TaskSpec
from luthierd.evaluator.domain.scores import ArmCost, MetricResults, SuiteResult
from luthierd.evaluator.domain.sequential import SequentialConfig, SequentialDecision
from luthierd.evaluator.domain.suites import SuiteConfig

# Splits that can be evaluated on.
SPLITS = ("holdout", "validation")
DEFAULT_INSTRUCTION = (
    "Answer in exactly the form of the examples: the same structure, the same fields, the same style and length. "
    "Write the answer only, without any explanation."
)


class DatasetNotReadyError(FailedPreconditionError):
    """The dataset revision cannot be read."""

    reason = "DATASET_REVISION_NOT_READY"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is not READY; wait for its curation or name another revision", metadata={"dataset_revision": name}
        )


class SplitEmptyError(FailedPreconditionError):
    """There is nothing to evaluate on."""

    reason = "SPLIT_EMPTY"

    def __init__(self, name: str, split: str) -> None:
        super().__init__(
            f"the {split} split of {name} has no rows; curate with a larger share for it",
            metadata={"dataset_revision": name, "split": split},
        )


@dataclass(frozen=True)
class EndpointTarget:
    """A model behind an endpoint of the server's list (`endpoints.py`); `model` empty: the endpoint's own."""

    endpoint: str
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How to evaluate, with every default filled in. Meaning and bounds: `EvaluationConfig` of the contract."""

    arms: tuple[Arm, ...] = DEFAULT_ARMS
    split: str = "holdout"
    row_limit: int = 0
    text_field: str = ""
    label_field: str = ""
    instruction: str = DEFAULT_INSTRUCTION
    shot_count: int = 3
    max_answer_tokens: int = 96
    concurrency: int = 16
    seed: int = 0
    machine_price_per_hour: float = 0.10
    resample_count: int = 2000
    metrics: tuple[Metric, ...] = ()
    judge: JudgeChoice = field(default_factory=JudgeChoice)
    task: TaskKind = TaskKind.AUTO
    json_schema: str = ""
    rubric: tuple[Criterion, ...] = ()
    repeat_count: int = 3
    repeat_temperature: float = 0.7
    passages: str = ""
    passage_characters: int = 800
    retrievers: tuple[Retriever, ...] = tuple(Retriever)
    raft_adapter_revision: str = ""
    challenger_revision: str = ""
    endpoint: EndpointTarget | None = None
    prompt: str = ""
    suites: SuiteConfig = field(default_factory=SuiteConfig)
    use_cache: bool = False
    final: bool = False
    sequential: SequentialConfig | None = None
    purpose: str = ""


def adapter_of(revision: str) -> str:
    """The adapter of a revision's name: all its revisions are one author."""
    return revision.rpartition("/revisions/")[0]


@dataclass(frozen=True)
class AdapterRevision:
    """What the trainer says of an adapter revision."""

    name: str
    sha256: str
    base_model: str
    base_model_sha256: str
    dataset_revision: str
    """What it was trained on; empty for an imported one: nobody here knows."""


@dataclass(frozen=True)
class DatasetRevision:
    """What curation says of a dataset revision. `splits` maps `train`, `validation`, `holdout` to the blob's sha256."""

    name: str
    sha256: str
    is_ready: bool
    splits: Mapping[str, str]
    row_counts: Mapping[str, int]

    def rows_sha256(self, split: str) -> str:
        """The blob of a split that has rows. DatasetNotReadyError, SplitEmptyError."""
        if not self.is_ready:
            raise DatasetNotReadyError(self.name)
        if not self.row_counts.get(split):
            raise SplitEmptyError(self.name, split)
        return self.splits[split]


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """Everything an evaluation reads, by name and digest; fixed when it is created. `train_sha256` is the split whose
    rows may be shown, `trained_sha256` the one that the adapter learned from: the same unless another dataset was
    named, empty for an imported adapter. `validation_sha256` is empty where there are no such rows. `passage_sha256s`
    are the splits of the documents, `other_trained_sha256s` what the additional adapters learned from.
    """

    adapter_revision: str
    adapter_sha256: str
    base_model: str
    base_model_sha256: str
    dataset_revision: str
    dataset_sha256: str
    rows_sha256: str
    train_sha256: str
    trained_sha256: str
    validation_sha256: str = ""
    passage_sha256s: tuple[str, ...] = ()
    raft_sha256: str = ""
    challenger_sha256: str = ""
    other_trained_sha256s: tuple[str, ...] = ()
    prompt_sha256: str = ""
    challenge_sha256: str = ""


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is: `phase` is `index`, `answer`, `score` or `report`; counts are of answers."""

    phase: str
    arm: Arm | None
    done_count: int
    total_count: int


@dataclass(frozen=True, kw_only=True)
class Results:
    """What an evaluation leaves. The blobs hold the rows with all answers (JSONL) and the report (HTML)."""

    overall: MetricResults
    costs: Sequence[ArmCost]
    row_count: int
    group_count: int
    task: TaskSpec
    index_sha256: str
    versions: Mapping[str, str]
    answers_sha256: str
    report_sha256: str
    metric_details: MetricDetails = field(default_factory=MetricDetails)
    retrieval: RetrievalSummary | None = None
    suites: Sequence[SuiteResult] = ()
    slices: Mapping[str, MetricResults] = field(default_factory=dict)
    sequential_decisions: tuple[SequentialDecision, ...] = ()
    holdout_use: HoldoutUse | None = None
    leakage: LeakageReport = field(default_factory=LeakageReport)

    def cost(self, arm: Arm) -> ArmCost | None:
        """The cost of one arm, if it was run."""
        return next((found for found in self.costs if found.arm is arm), None)


@dataclass(frozen=True)
class FinishedEvaluation:
    """A SUCCEEDED evaluation: what was evaluated, how, and what was found."""

    name: str
    inputs: EvaluationInputs
    config: EvaluationConfig
    results: Results
