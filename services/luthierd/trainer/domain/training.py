"""Training jobs: their settings, the task of a worker, and its progress."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from luthierd.errors import FailedPreconditionError
from luthierd.settings import Fault, InvalidSettingsError, faults, setting
from luthierd.trainer.domain.base_model import BaseModelInfo

CONFIG_PATH = "training_job.config"


class InvalidTrainingConfigError(InvalidSettingsError):
    """A training setting is unknown or out of range."""

    reason = "INVALID_TRAINING_CONFIG"


class DatasetNotReadyError(FailedPreconditionError):
    """The dataset revision cannot be trained on."""

    reason = "DATASET_REVISION_NOT_READY"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train. The contract's TrainingConfig explains each setting."""

    method: str = "sft"
    """Name of the recipe."""
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that only this recipe has."""
    rank: int = setting(16, at_least=1, at_most=256)
    alpha: float = setting(32.0, above=0)
    dropout: float = setting(0.0, at_least=0, below=1)
    target_modules: tuple[str, ...] = ()
    """Names of the linear layers to adapt; empty: all linear layers of the blocks."""
    epoch_count: float = setting(1.0, above=0, at_most=1000)
    max_steps: int = setting(0, at_least=0)
    """Maximum number of optimizer steps; 0: no limit."""
    batch_size: int = setting(8, at_least=1, at_most=4096)
    micro_batch_size: int = setting(8, at_least=1)
    learning_rate: float = setting(5e-4, above=0, at_most=1)
    warmup_ratio: float = setting(0.05, at_least=0, at_most=1)
    min_learning_rate_ratio: float = setting(0.1, at_least=0, at_most=1)
    weight_decay: float = setting(0.0, at_least=0, at_most=1)
    max_grad_norm: float = setting(1.0, above=0)
    validation_interval_steps: int = setting(10, at_least=0)
    """0: only at the end."""
    checkpoint_interval_steps: int = setting(10, at_least=1)
    early_stopping_patience: int = setting(3, at_least=0)
    """Validations without improvement after which training stops; 0: never."""
    early_stopping_min_delta: float = setting(0.0, at_least=0)
    seed: int = setting(0, at_least=0, below=2**63)
    dtype: str = setting("auto", one_of=("auto", "float32", "bfloat16"))
    max_seq_length: int = setting(0, at_least=0)
    """Longest row, in tokens; 0: the model's window, at most 2,048."""
    use_rslora: bool = False

    @property
    def scaling(self) -> float:
        """Factor of the LoRA product; rsLoRA: https://arxiv.org/abs/2312.03732."""
        return float(self.alpha / (self.rank**0.5 if self.use_rslora else self.rank))

    @classmethod
    def from_given(cls, given: Mapping[str, Any]) -> TrainingConfig:
        """The settings `given`, the rest by default. InvalidTrainingConfigError names every value out of range.

        Two defaults depend on other settings: alpha is twice the rank, micro_batch_size is batch_size.
        """
        config = cls(**given)
        config = dataclasses.replace(
            config,
            alpha=given.get("alpha", 2.0 * config.rank),
            micro_batch_size=given.get("micro_batch_size", config.batch_size),
        )
        if found := faults(config):
            raise InvalidTrainingConfigError(CONFIG_PATH, found)
        return config

    def faults(self) -> Iterator[Fault]:
        """Settings that do not fit each other."""
        if self.micro_batch_size >= 1 and self.batch_size % self.micro_batch_size:
            yield Fault(
                "micro_batch_size", f"must be a divisor of batch_size {self.batch_size}, not {self.micro_batch_size}"
            )
        if 0 < self.max_seq_length < 8:
            yield Fault("max_seq_length", f"must be 0 (the model's window) or at least 8, not {self.max_seq_length}")


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
