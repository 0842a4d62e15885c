"""What a training method is. A recipe is one file: a class with `@RECIPES.register`, and its settings, if any.

    @RECIPES.register
    class Sft(Recipe):
        name, description = "sft", "supervised fine-tuning with the loss on completions only"

        def encode(self, rows, tokenizer): ...      # once, before the first step
        def build(self, model): ...                 # what is trained
        def loss(self, model, examples): ...        # of a micro-batch

The loop (`loop.py`) does the rest: steps, checkpoints, resuming, validation, early stopping, progress, cancellation.
Another distribution adds a method by an entry point of the group `luthier.training_methods`. The server imports these
files to check settings, and has no torch: torch and the blocks are imported inside the methods.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from luthierd import settings
from luthierd.plugins import Plugins
from luthierd.trainer.domain.training import CONFIG_PATH, InvalidTrainingConfigError, TrainingConfig

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class NoSettings:
    """Settings of a method that adds none."""


class Example(Protocol):
    """A row as the model sees it."""

    @property
    def token_count(self) -> int:
        """Tokens of the row; examples of similar length share a batch."""

    @property
    def label_count(self) -> int:
        """What the row adds to the divisor of a batch's loss: its tokens with loss, or 1."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt as it is served, for the reference log-probabilities; empty for none."""


class Weights(Protocol):
    """What is trained of a model, in place."""

    @property
    def target_modules(self) -> tuple[str, ...]:
        """Names of the layers that have trained weights, sorted."""

    def parameters(self) -> list[torch.nn.Parameter]:
        """In a fixed order: the optimizer's state is saved by position."""

    def state(self) -> dict[str, torch.Tensor]:
        """Copies, by name."""

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `state`."""

    def disabled(self) -> AbstractContextManager[None]:
        """Within the block the model is the base model."""

    def save(self, folder: pathlib.Path, *, base_model: str) -> None:
        """Writes the files that servers load."""


class Recipe(Protocol):
    """One training method. Every random choice must come from torch's generator, which the loop seeds and saves."""

    name: ClassVar[str]
    Settings: ClassVar[type[Any]] = NoSettings
    description: ClassVar[str]
    """Of the training, for model cards: "supervised fine-tuning ..."."""
    config: TrainingConfig
    settings: Any

    def __init__(self, config: TrainingConfig, own_settings: Any) -> None:
        self.config, self.settings = config, own_settings

    def encode(self, rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> Sequence[Example]:
        """The rows of a split as examples, in their order."""

    def build(self, model: Any) -> Weights:
        """Freezes what stays as it is, and adds or selects what is trained. The same seed gives the same weights."""

    def loss(self, model: Any, examples: Sequence[Any]) -> torch.Tensor:
        """The summed loss of a micro-batch: a scalar in float32. The loop divides by the sum of `label_count`."""


RECIPES = Plugins[Recipe]("luthierd.trainer.recipes", group="luthier.training_methods")


def make_recipe(config: TrainingConfig) -> Recipe:
    """The recipe of `config.method`. InvalidTrainingConfigError for an unknown method or setting."""
    kind, own_settings = _find(config)
    return kind(config, own_settings)


def with_method_defaults(config: TrainingConfig) -> TrainingConfig:
    """`config` with every setting of its method filled in. The errors of `make_recipe`."""
    return dataclasses.replace(config, method_settings=settings.plain(_find(config)[1]))


def _find(config: TrainingConfig) -> tuple[type[Recipe], Any]:
    kind = RECIPES.find(config.method)
    if kind is None:
        raise InvalidTrainingConfigError(CONFIG_PATH, [settings.unknown("method", config.method, RECIPES.names())])
    path, error = f"{CONFIG_PATH}.method_settings", InvalidTrainingConfigError
    return kind, settings.parse(kind.Settings, config.method_settings, path=path, error=error)
