"""How a dataset is curated: one frozen value, checked once. The keys are those of `CurationRecipe` in the contract."""

from __future__ import annotations

import dataclasses
import difflib
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from luthierd.errors import FieldViolation, InvalidArgumentError

MASKED_BY_DEFAULT = (
    "EMAIL_ADDRESS",
    "PHONE_NUMBER",
    "CREDIT_CARD",
    "IBAN_CODE",
    "IP_ADDRESS",
    "US_SSN",
    "CRYPTO",
)
"""What identifies a person and is seldom the answer to a question. Names and dates are only reported: masked blindly,
they make right answers underivable (measured in docs/datasheet.md)."""


class PiiAction(enum.StrEnum):
    """What happens to a row with personal data."""

    REPORT = "report"
    MASK = "mask"
    DROP = "drop"


class RecipeError(InvalidArgumentError):
    """A recipe with an unknown key, or a value out of its range."""

    reason = "RECIPE_INVALID"

    @classmethod
    def at(cls, key: str, problem: str, **metadata: str) -> RecipeError:
        """The fault of one key."""
        return cls(
            f"recipe: {key}: {problem}",
            metadata={"key": key, **metadata},
            violations=[FieldViolation(f"recipe.{key}", problem)],
        )


@dataclass(frozen=True)
class CleanRules:
    """Lengths of the rows that stay."""

    min_completion_characters: int = 1
    max_row_characters: int = 32_768
    """Over all messages."""


@dataclass(frozen=True)
class DeduplicateRules:
    """When two rows are one."""

    near_duplicate_threshold: float = 0.85
    """Jaccard similarity of word 3-shingles from which on two rows are near duplicates; 1 turns the step off."""


@dataclass(frozen=True)
class PiiRules:
    """What happens to personal data."""

    action: PiiAction = PiiAction.MASK
    entities: tuple[str, ...] = MASKED_BY_DEFAULT
    """Presidio entity types to act on; others are only counted."""
    min_score: float = 0.5
    """Least confidence to act on and to count."""


@dataclass(frozen=True)
class SplitRules:
    """Shares of validation and holdout; the rest is for training. A bound of 0 rows is none."""

    validation_fraction: float = 0.1
    holdout_fraction: float = 0.2
    seed: int = 0
    max_train_rows: int = 0
    max_holdout_rows: int = 0
    max_validation_rows: int = 0


@dataclass(frozen=True)
class Recipe:
    """All rules."""

    clean: CleanRules = field(default_factory=CleanRules)
    deduplicate: DeduplicateRules = field(default_factory=DeduplicateRules)
    pii: PiiRules = field(default_factory=PiiRules)
    split: SplitRules = field(default_factory=SplitRules)

    def to_mapping(self) -> dict[str, Any]:
        """The recipe as plain values, every default filled in."""
        value = dataclasses.asdict(self)
        value["pii"] |= {"action": self.pii.action.value, "entities": list(self.pii.entities)}
        return value


_SECTIONS = {"clean": CleanRules, "deduplicate": DeduplicateRules, "pii": PiiRules, "split": SplitRules}
_CHOICES_OF_ACTION = ", ".join(PiiAction)


def parse_recipe(value: Any) -> Recipe:
    """A recipe from plain values (YAML, JSON, the wire). RecipeError names the wrong key, and the nearest known one."""
    sections: dict[str, Any] = {}
    for name, rules in _as_mapping(value, "recipe").items():
        if name not in _SECTIONS:
            raise _unknown(name, list(_SECTIONS))
        sections[name] = _parse_section(_SECTIONS[name], _as_mapping(rules, name), name)
    recipe = Recipe(**sections)
    _check_ranges(recipe)
    return recipe


def _parse_section(kind: Any, values: Mapping[str, Any], section: str) -> Any:
    defaults = {known.name: known for known in dataclasses.fields(kind)}
    parsed = {}
    for key, value in values.items():
        if key not in defaults:
            raise _unknown(f"{section}.{key}", [f"{section}.{known}" for known in defaults])
        parsed[key] = _parse_value(value, defaults[key].default, f"{section}.{key}")
    return kind(**parsed)


def _parse_value(value: Any, default: Any, key: str) -> Any:
    if isinstance(default, PiiAction):
        if not isinstance(value, str) or value.lower() not in list(PiiAction):
            raise RecipeError.at(key, f"{value!r} is not one of {_CHOICES_OF_ACTION}")
        return PiiAction(value.lower())
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
            raise RecipeError.at(key, "it must be a list of entity types, such as [EMAIL_ADDRESS]")
        return tuple(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (isinstance(default, int) and value != int(value)):
        wanted = "an integer" if isinstance(default, int) else "a number"
        raise RecipeError.at(key, f"{value!r} is not {wanted}")
    return type(default)(value)


def _check_ranges(recipe: Recipe) -> None:
    clean, pii, split = recipe.clean, recipe.pii, recipe.split
    positive = {"clean.min_completion_characters": clean.min_completion_characters}
    positive["clean.max_row_characters"] = clean.max_row_characters
    for key, value in positive.items():
        if value < 1:
            raise RecipeError.at(key, f"{value} is below 1")
    for key in ("max_train_rows", "max_holdout_rows", "max_validation_rows"):
        if getattr(split, key) < 0:
            raise RecipeError.at(f"split.{key}", f"{getattr(split, key)} is negative; 0 means no bound")
    threshold = recipe.deduplicate.near_duplicate_threshold
    if not 0.3 <= threshold <= 1:  # below, most candidates are noise and verifying them is quadratic
        raise RecipeError.at(
            "deduplicate.near_duplicate_threshold", f"{threshold} is not from 0.3 to 1; 1 turns it off"
        )
    if not 0 <= pii.min_score <= 1:
        raise RecipeError.at("pii.min_score", f"{pii.min_score} is not from 0 to 1")
    for key in ("validation_fraction", "holdout_fraction"):
        if not 0 <= getattr(split, key) < 1:
            raise RecipeError.at(f"split.{key}", f"{getattr(split, key)} is not a share: at least 0, less than 1")
    if split.validation_fraction + split.holdout_fraction >= 1:
        raise RecipeError.at(
            "split.holdout_fraction",
            f"validation {split.validation_fraction} and holdout {split.holdout_fraction} leave nothing to train on",
        )


def _as_mapping(value: Any, key: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RecipeError.at(key, f"{type(value).__name__} given; it must be a mapping of keys to values")
    return {str(name): item for name, item in value.items()}


def _unknown(key: str, known: list[str]) -> RecipeError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return RecipeError.at(key, f"unknown key; {hint}", nearest=(near or [""])[0])
