"""Rows, what is asked about them, and what arms answered."""

from __future__ import annotations

from dataclasses import dataclass

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metric_details import TaskKind
from luthierd.evaluator.domain.metrics import LABEL_ACCURACY, ROUGE_L, Metric


@dataclass(frozen=True)
class Message:
    """One turn of a chat. `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
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

    @property
    def primary_metric(self) -> Metric:
        """The metric that decides by default: ROUGE-L where answers hold text, label accuracy where they are labels."""
        if self.kind.decisive:
            return self.kind.decisive
        return LABEL_ACCURACY if self.is_json and self.text_field is None else ROUGE_L


@dataclass(frozen=True)
class AnswerError:
    """Why a query has no answer. `reason` is the UPPER_SNAKE reason of the inference service."""

    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
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
