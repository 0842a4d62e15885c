"""The trainer's nouns and rules: what a training run is told, what it reports, what it makes. Standard library only."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from typing import Any

from luthierd.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)


class InvalidTrainingConfigError(InvalidArgumentError):
    """A training setting is out of range."""

    reason = "INVALID_TRAINING_CONFIG"


class BaseModelNotFoundError(NotFoundError):
    """No such base model."""

    reason = "BASE_MODEL_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no {name}; `luthier model import` registers one, ListBaseModels names those there are",
            metadata={"base_model": name},
        )


class BaseModelNotReadyError(FailedPreconditionError):
    """The base model cannot be trained on now."""

    reason = "BASE_MODEL_NOT_READY"

    def __init__(self, name: str, state: str) -> None:
        advice = "wait until it is READY" if state == BaseModelState.IMPORTING else "import it again"
        super().__init__(f"{name} is {state}; {advice}", metadata={"base_model": name, "state": state})


class BaseModelExistsError(AlreadyExistsError):
    """The name is taken by another model."""

    reason = "BASE_MODEL_EXISTS"

    def __init__(self, name: str, source: str) -> None:
        super().__init__(
            f"{name} is taken by a model from {source}; choose another name",
            metadata={"base_model": name, "source": source},
        )


class DatasetNotReadyError(FailedPreconditionError):
    """The dataset revision cannot be trained on."""

    reason = "DATASET_REVISION_NOT_READY"


class AdapterNotFoundError(NotFoundError):
    """No such adapter."""

    reason = "ADAPTER_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no adapter {name}; ListAdapters names those there are", metadata={"adapter": name})


class AdapterRevisionNotFoundError(NotFoundError):
    """No such adapter revision."""

    reason = "ADAPTER_REVISION_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no adapter revision {name}; ListAdapterRevisions names those there are",
            metadata={"adapter_revision": name},
        )


class AdapterBaseMismatchError(FailedPreconditionError):
    """The adapter's revisions belong to another base model; a deployment could not go from one to the other."""

    reason = "ADAPTER_BASE_MISMATCH"

    def __init__(self, adapter: str, *, belongs_to: str, wanted: str) -> None:
        super().__init__(
            f"{adapter} belongs to {belongs_to}, not to {wanted}; train another adapter, or on {belongs_to}",
            metadata={"adapter": adapter, "base_model": belongs_to, "wanted_base_model": wanted},
        )


class PackageNotFoundError(NotFoundError):
    """No such package is installed on the trainer's machine."""

    reason = "PACKAGE_NOT_FOUND"

    def __init__(self, package: str) -> None:
        super().__init__(
            f"the package {package} is not installed on the trainer's machine; pip install --no-deps {package}",
            metadata={"package": package},
        )


class ImportPathNotFoundError(FailedPreconditionError):
    """The folder does not exist."""

    reason = "IMPORT_PATH_NOT_FOUND"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} is not a folder on the trainer's machine; give the one that holds config.json",
            metadata={"path": path},
        )


class ImportPathForbiddenError(PermissionDeniedError):
    """The folder is outside the allowed import folders."""

    reason = "IMPORT_PATH_FORBIDDEN"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} is outside of the trainer's import roots; move it there, or set LUTHIER_TRAINER_IMPORT_ROOTS",
            metadata={"path": path},
        )


class BaseModelState(enum.StrEnum):
    """IMPORTING -> READY | FAILED; FAILED -> IMPORTING."""

    IMPORTING = "IMPORTING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train with LoRA, loss on the completion only. The contract's TrainingConfig explains each setting."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    """Names of the linear layers to adapt; empty: all linear layers of the blocks."""
    epoch_count: float = 1.0
    max_steps: int = 0
    """Upper bound of optimizer steps; 0: none."""
    batch_size: int = 8
    micro_batch_size: int = 8
    learning_rate: float = 5e-4
    warmup_ratio: float = 0.05
    min_learning_rate_ratio: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    validation_interval_steps: int = 10
    """0: only at the end."""
    checkpoint_interval_steps: int = 10
    early_stopping_patience: int = 3
    """Validations without improvement after which training stops; 0: never."""
    early_stopping_min_delta: float = 0.0
    seed: int = 0
    dtype: str = "auto"
    max_seq_length: int = 0
    """Longest row; 0: the model's window, at most 2,048."""
    use_rslora: bool = False

    @property
    def scaling(self) -> float:
        """What the LoRA product is multiplied by; use-rslora: https://arxiv.org/abs/2312.03732."""
        return float(self.alpha / (self.rank**0.5 if self.use_rslora else self.rank))

    @classmethod
    def from_given(cls, given: dict[str, Any]) -> TrainingConfig:
        """The settings `given`, the rest by default. InvalidTrainingConfigError names every value out of range.

        Two defaults follow from other settings: alpha is twice the rank, micro_batch_size is batch_size.
        """
        config = cls(**given)
        config = dataclasses.replace(
            config,
            alpha=given.get("alpha", 2.0 * config.rank),
            micro_batch_size=given.get("micro_batch_size", config.batch_size),
        )
        violations = [
            FieldViolation(f"training_job.config.{name}", f"{getattr(config, name)!r} is not {wanted}")
            for name, (is_right, wanted) in config._rules().items()
            if not is_right
        ]
        if violations:
            text = "; ".join(f"{v.field.rpartition('.')[2]}: {v.description}" for v in violations)
            fields = ",".join(v.field for v in violations)
            raise InvalidTrainingConfigError(text, metadata={"fields": fields}, violations=violations)
        return config

    def _rules(self) -> dict[str, tuple[bool, str]]:
        """By field: whether its value is right, and what would be."""
        return {
            "rank": (1 <= self.rank <= 256, "from 1 to 256"),
            "alpha": (self.alpha > 0, "above 0"),
            "dropout": (0 <= self.dropout < 1, "from 0 to below 1"),
            "epoch_count": (0 < self.epoch_count <= 1000, "above 0 and at most 1000"),
            "max_steps": (self.max_steps >= 0, "0 (no bound) or more"),
            "batch_size": (1 <= self.batch_size <= 4096, "from 1 to 4096"),
            "micro_batch_size": (
                self.micro_batch_size >= 1 and self.batch_size % self.micro_batch_size == 0,
                f"a divisor of batch_size {self.batch_size}",
            ),
            "learning_rate": (0 < self.learning_rate <= 1, "above 0 and at most 1"),
            "warmup_ratio": (0 <= self.warmup_ratio <= 1, "from 0 to 1"),
            "min_learning_rate_ratio": (0 <= self.min_learning_rate_ratio <= 1, "from 0 to 1"),
            "weight_decay": (0 <= self.weight_decay <= 1, "from 0 to 1"),
            "max_grad_norm": (self.max_grad_norm > 0, "above 0"),
            "validation_interval_steps": (self.validation_interval_steps >= 0, "0 (at the end) or more"),
            "checkpoint_interval_steps": (self.checkpoint_interval_steps >= 1, "1 or more"),
            "early_stopping_patience": (self.early_stopping_patience >= 0, "0 (never) or more"),
            "early_stopping_min_delta": (self.early_stopping_min_delta >= 0, "0 or more"),
            "seed": (0 <= self.seed < 2**63, "from 0 to 2^63-1"),
            "dtype": (self.dtype in {"auto", "float32", "bfloat16"}, "auto, float32 or bfloat16"),
            "max_seq_length": (
                self.max_seq_length == 0 or self.max_seq_length >= 8,
                "0 (the model's window) or 8 and more",
            ),
        }


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """How far a run is, after an optimizer step."""

    step: int
    total_steps: int
    loss: float
    """Nats per completion token, over this step's rows."""
    learning_rate: float
    tokens_per_second: float
    """Since this worker started; padding, validation and checkpoints not counted."""
    remaining_s: float
    gradient_norm: float
    validation_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class BaseModelInfo:
    """What an import finds out about a model."""

    sha256: str
    tokenizer_sha256: str
    chat_template_sha256: str
    architecture: str
    parameter_count: int
    context_window_tokens: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class ImportSource:
    """Where a base model comes from. `label` is what is shown: it names no folder of the machine above the last one."""

    kind: str
    """`path` or `package`."""
    value: str
    label: str


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A registered general model."""

    name: str
    state: BaseModelState
    source: ImportSource
    import_job: str
    create_time: float
    end_time: float | None = None
    error: dict[str, Any] | None = None
    info: BaseModelInfo | None = None

    def ready_info(self) -> BaseModelInfo:
        """What is known of it. BaseModelNotReadyError until it is READY."""
        if self.state is not BaseModelState.READY or self.info is None:
            raise BaseModelNotReadyError(self.name, self.state)
        return self.info


@dataclass(frozen=True, kw_only=True)
class DatasetSplits:
    """A dataset revision as the trainer needs it: names and digests."""

    name: str
    sha256: str
    train_sha256: str
    validation_sha256: str
    """Empty: the revision has no validation split."""


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """A training job's payload: everything is resolved to digests, so that a resumed run reads the same bytes."""

    dataset: DatasetSplits
    base_model: str
    base_model_info: BaseModelInfo
    adapter: str
    config: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A named line of adapter revisions."""

    name: str
    create_time: float
    latest_revision: str
    """Empty before the first."""


@dataclass(frozen=True, kw_only=True)
class AdapterRevision:
    """The immutable result of a training job."""

    name: str
    create_time: float
    sha256: str
    size_bytes: int
    base_model: str
    base_model_sha256: str
    dataset_revision: str
    dataset_sha256: str
    training_job: str
    rank: int
    target_modules: tuple[str, ...]
    validation_loss: float | None
    """None: there was no validation split."""
