"""How a dataset is curated: stages in their order, each with its settings. `CurationRecipe` in the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthierd import settings
from luthierd.curation.stages.stage import STAGES, RecipeError, Stage
from luthierd.settings import Fault

DEFAULT_STAGES = ("clean", "exact_duplicates", "pii", "contradictions", "near_duplicates", "split")
"""PII comes before near duplicates, so that rows alike but for a name are found."""


@dataclass(frozen=True)
class RecipeStage:
    """A stage of a recipe: its name, and its settings with every default filled in."""

    stage: str
    settings: Any


@dataclass(frozen=True)
class Recipe:
    """Stages in the order in which they run, each at most once."""

    stages: tuple[RecipeStage, ...]

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain values; `parse_recipe` reads them back."""
        return {"stages": [{"stage": one.stage, "settings": settings.plain(one.settings)} for one in self.stages]}


def parse_recipe(value: Any) -> Recipe:
    """A recipe from plain values: `{"stages": [{"stage": "clean", "settings": {...}}, ...]}`.

    Without stages it has the default ones. RecipeError names the stage and the setting, and the known name that an
    unknown one looks like.
    """
    given = _mapping(value, "recipe", known=["stages"]).get("stages") or [{"stage": name} for name in DEFAULT_STAGES]
    if not isinstance(given, list | tuple):
        raise _error("recipe.stages", f"must be a list of stages, not {given!r:.40}")
    stages = tuple(_stage(one, f"recipe.stages[{index}]") for index, one in enumerate(given))
    names = [one.stage for one in stages]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise _error("recipe.stages", f"{repeated[0]} is listed twice; list it once")
    if sum(_class_of(name).assigns_splits for name in names) != 1:
        raise _error("recipe.stages", "one stage must split the rows; add split")
    return Recipe(stages)


def make_stages(recipe: Recipe) -> list[Stage]:
    """The stages, ready to be applied; loads their models. RecipeError for a setting that a model does not know."""
    return [_class_of(one.stage)(one.settings) for one in recipe.stages]


def _stage(value: Any, path: str) -> RecipeStage:
    given = _mapping(value, path, known=["stage", "settings"])
    kind = _class_of(str(given.get("stage", "")), path)
    path = f"recipe.{kind.name}"
    chosen = _mapping(given.get("settings"), path)
    return RecipeStage(kind.name, settings.parse(kind.Settings, chosen, path=path, error=RecipeError))


def _class_of(name: str, path: str = "recipe") -> type[Stage]:
    kind = STAGES.find(name)
    if kind is None:
        wrong = settings.unknown("stage", name, STAGES.names())
        raise RecipeError(path, [wrong])
    return kind


def _mapping(value: Any, path: str, *, known: Sequence[str] = ()) -> Mapping[str, Any]:
    """`value`, a mapping; None is an empty one. RecipeError for anything else, and for an unknown key."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _error(path, f"must be a mapping of names to values, not {value!r:.40}")
    if known and (unknown := [str(key) for key in value if key not in known]):
        raise RecipeError(path, [settings.unknown(unknown[0], unknown[0], known)])
    return value


def _error(path: str, description: str) -> RecipeError:
    return RecipeError(path, [Fault("", description)])
