"""The recipe."""

from __future__ import annotations

from typing import Any

import pytest
from luthierd.curation.recipe import PiiAction, Recipe, RecipeError, parse_recipe


def test_nothing_given_is_every_default() -> None:
    assert parse_recipe(None) == parse_recipe({}) == parse_recipe({"clean": None}) == Recipe()


def test_a_recipe_survives_the_trip_through_plain_values() -> None:
    recipe = parse_recipe(
        {"pii": {"action": "DROP", "entities": ["PERSON"]}, "split": {"seed": 3.0, "holdout_fraction": 0}}
    )
    assert recipe.pii.action is PiiAction.DROP
    assert parse_recipe(recipe.to_mapping()) == recipe


@pytest.mark.parametrize(
    ("value", "key", "says"),
    [
        ({"splits": {}}, "splits", "did you mean split?"),
        ({"split": {"holdout_fracton": 0.1}}, "split.holdout_fracton", "did you mean split.holdout_fraction?"),
        ({"zzzz": {}}, "zzzz", "known are"),
        ([], "recipe", "mapping"),
        ({"clean": 3}, "clean", "mapping"),
        ({"clean": {"max_row_characters": "many"}}, "clean.max_row_characters", "not an integer"),
        ({"clean": {"max_row_characters": 1.5}}, "clean.max_row_characters", "not an integer"),
        ({"clean": {"max_row_characters": True}}, "clean.max_row_characters", "not an integer"),
        ({"clean": {"min_completion_characters": 0}}, "clean.min_completion_characters", "below 1"),
        ({"pii": {"action": "burn"}}, "pii.action", "report, mask, drop"),
        ({"pii": {"entities": "PERSON"}}, "pii.entities", "list"),
        ({"pii": {"min_score": 1.01}}, "pii.min_score", "0 to 1"),
        ({"deduplicate": {"near_duplicate_threshold": 0.2}}, "deduplicate.near_duplicate_threshold", "0.3 to 1"),
        ({"split": {"max_train_rows": -1}}, "split.max_train_rows", "negative"),
        ({"split": {"validation_fraction": 1}}, "split.validation_fraction", "share"),
        (
            {"split": {"validation_fraction": 0.6, "holdout_fraction": 0.4}},
            "split.holdout_fraction",
            "nothing to train",
        ),
    ],
)
def test_a_wrong_recipe_names_its_key(value: Any, key: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(value)
    assert caught.value.metadata["key"] == key
    assert says in str(caught.value)
    assert caught.value.violations[0].field == f"recipe.{key}"


def test_not_a_number_is_no_share() -> None:
    for key in ("validation_fraction", "holdout_fraction"):
        with pytest.raises(RecipeError):
            parse_recipe({"split": {key: float("nan")}})
