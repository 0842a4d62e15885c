"""What an evaluation is: arms, rows, answers, scores, intervals, verdicts. Frozen values and pure rules;
stdlib only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luthierd.evaluator.domain.arm import DEFAULT_ARMS as DEFAULT_ARMS
from luthierd.evaluator.domain.arm import Arm as Arm
from luthierd.evaluator.domain.holdout import HoldoutUse, LeakageReport
from luthierd.evaluator.domain.metric_details import Criterion, JudgeChoice, Measures, TaskKind
from luthierd.evaluator.domain.metrics import Metric as Metric
from luthierd.evaluator.domain.retrieval import RetrievalSummary, Retriever
from luthierd.evaluator.domain.sequential import SequentialConfig as SequentialConfig
from luthierd.evaluator.domain.sequential import SequentialOutcome as SequentialOutcome
from luthierd.evaluator.domain.sequential import SequentialTarget as SequentialTarget
from luthierd.evaluator.domain.suites import SuiteConfig
from luthierd.statistics.uncertainty import Bounds as Bounds
from luthierd.statistics.uncertainty import CommonRows as CommonRows
from luthierd.statistics.uncertainty import Interval as Interval

DEFAULT_INSTRUCTION = (
    "Answer in exactly the form of the examples: the same structure, the same fields, the same style and length. "
    "Write the answer only, without any explanation."
)


@dataclass(frozen=True)
class Message:
    """One turn of a chat. `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """One row of a dataset split: the prompt, and the reference answer that the holdout hides from the model. `slices`
    names the parts of the split that the row belongs to, e.g. `challenge:vague`.
    """

    id: str
    group: str
    label: str | None
    prompt: tuple[Message, ...]
    reference: str
    choices: tuple[str, ...] = ()
    """What an answer is chosen from, the reference among them; empty where answers are free."""
    sources: tuple[str, ...] = ()
    """Ids of the training rows, or of the documents, that hold the answer; empty where none are named."""
    slices: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The text that retrieval compares: the last user turn."""
        return next((turn.content for turn in reversed(self.prompt) if turn.role == "user"), "")


@dataclass(frozen=True)
class TaskSpec:
    """How to read an answer. Both fields None: the answer is plain text; else it is a JSON object with these keys."""

    text_field: str | None = None
    label_field: str | None = None
    json_fields: tuple[str, ...] = ()
    kind: TaskKind = TaskKind.AUTO

    @property
    def is_json(self) -> bool:
        return bool(self.json_fields)


@dataclass(frozen=True)
class AnswerError:
    """Why a query has no answer. `reason` is the UPPER_SNAKE reason of the inference service."""

    reason: str
    message: str


@dataclass(frozen=True)
class Answer:
    """What one arm said to one row, once. `error` is set exactly when there is no answer.

    `start_s` is Unix time; `ttft_s` (time to first token) and `total_s` are seconds as the evaluator saw them, queueing
    included.
    """

    arm: Arm
    row_id: str
    text: str
    start_s: float
    ttft_s: float
    total_s: float
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    loaded_adapter: str
    shown_row_ids: tuple[str, ...] = ()
    error: AnswerError | None = None
    is_cached: bool = False
    """Whether another evaluation paid for it: its times are of then, and stay out of latency and cost."""


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
class Figures:
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
    figures: Figures
    confusions: Mapping[Arm, Confusion]
    measures: Measures = field(default_factory=Measures)
    slices: Mapping[str, Figures] = field(default_factory=dict)


@dataclass(frozen=True)
class EndpointTarget:
    """A model behind an endpoint of the server's list (`endpoints.py`); `model` empty: the endpoint's own."""

    endpoint: str
    model: str = ""


@dataclass(frozen=True)
class SequentialDecision:
    """What became of a target, after how many rows, groups and looks. `interval` is None before the first look."""

    target: SequentialTarget
    outcome: SequentialOutcome
    row_count: int
    group_count: int
    round_count: int
    difference: float
    interval: Interval | None


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class AdapterRevision:
    """What the trainer says of an adapter revision."""

    name: str
    sha256: str
    base_model: str
    base_model_sha256: str
    dataset_revision: str


@dataclass(frozen=True)
class DatasetRevision:
    """What curation says of a dataset revision. `splits` maps `train`, `validation`, `holdout` to the blob's sha256."""

    name: str
    sha256: str
    is_ready: bool
    splits: Mapping[str, str]
    row_counts: Mapping[str, int]


@dataclass(frozen=True)
class EvaluationInputs:
    """Everything an evaluation reads, by name and digest; fixed when it is created. `train_sha256` is the split whose
    rows may be shown, `trained_sha256` the one that the adapter learned from: the same unless another dataset was
    named. `validation_sha256` is empty where there are no such rows. `passage_sha256s` are the splits of the documents,
    `other_trained_sha256s` what the further adapters learned from.
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
    difficult_sha256: str = ""


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is: `phase` is `index`, `answer`, `score` or `report`; counts are of answers."""

    phase: str
    arm: Arm | None
    done_count: int
    total_count: int


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


@dataclass(frozen=True)
class Results:
    """What an evaluation leaves. The blobs hold the rows with all answers (JSONL) and the report (HTML)."""

    figures: Figures
    costs: Sequence[ArmCost]
    row_count: int
    group_count: int
    task: TaskSpec
    index_sha256: str
    versions: Mapping[str, str]
    answers_sha256: str
    report_sha256: str
    measures: Measures = field(default_factory=Measures)
    retrieval: RetrievalSummary | None = None
    suites: Sequence[SuiteResult] = ()
    slices: Mapping[str, Figures] = field(default_factory=dict)
    sequential_decisions: tuple[SequentialDecision, ...] = ()
    holdout_use: HoldoutUse | None = None
    leakage: LeakageReport = field(default_factory=LeakageReport)

    def cost(self, arm: Arm) -> ArmCost | None:
        """The cost of one arm, if it was run."""
        return next((found for found in self.costs if found.arm is arm), None)
