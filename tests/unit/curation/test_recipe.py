"""The recipe."""

from __future__ import annotations

from typing import Any

import pytest
from luthierd.curation.recipe import DEFAULT_STAGES, Recipe, parse_recipe
from luthierd.curation.stages.pii import PiiAction
from luthierd.curation.stages.stage import RecipeError


def settings_of(recipe: Recipe, stage: str) -> Any:
    return next(one.settings for one in recipe.stages if one.stage == stage)


def test_nothing_given_is_every_default_stage() -> None:
    assert parse_recipe(None) == parse_recipe({}) == parse_recipe({"stages": []})
    assert tuple(one.stage for one in parse_recipe(None).stages) == DEFAULT_STAGES
    assert parse_recipe({"stages": [{"stage": name} for name in DEFAULT_STAGES]}) == parse_recipe(None)


def test_a_recipe_is_its_stages_in_their_order() -> None:
    recipe = parse_recipe({"stages": [{"stage": "split"}, {"stage": "clean", "settings": None}]})
    assert [one.stage for one in recipe.stages] == ["split", "clean"]


def test_a_recipe_survives_the_trip_through_plain_values() -> None:
    pii = {"action": "DROP", "entities": ["PERSON"]}
    recipe = parse_recipe(
        {
            "stages": [
                {"stage": "pii", "settings": pii},
                {"stage": "split", "settings": {"seed": 3.0, "holdout_fraction": 0}},
            ]
        }
    )
    assert settings_of(recipe, "pii").action is PiiAction.DROP
    assert settings_of(recipe, "split").seed == 3
    assert parse_recipe(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("stage", "settings", "key", "says"),
    [
        ("split", {"holdout_fracton": 0.1}, "split.holdout_fracton", "did you mean holdout_fraction?"),
        ("split", {"zzzz": 0.1}, "split.zzzz", "choose one of validation_fraction, "),
        ("contradictions", {"x": 1}, "contradictions.x", "there are none"),
        ("clean", 3, "clean", "mapping"),
        ("clean", {"max_row_characters": "many"}, "clean.max_row_characters", "must be an integer, not 'many'"),
        ("clean", {"max_row_characters": 1.5}, "clean.max_row_characters", "must be an integer"),
        ("clean", {"max_row_characters": True}, "clean.max_row_characters", "must be an integer"),
        ("clean", {"max_row_characters": float("inf")}, "clean.max_row_characters", "must be an integer"),
        ("clean", {"min_completion_characters": 0}, "clean.min_completion_characters", "at least 1, not 0"),
        ("pii", {"action": "burn"}, "pii.action", "report, mask, drop"),
        ("pii", {"entities": "PERSON"}, "pii.entities", "list"),
        ("pii", {"min_score": 1.01}, "pii.min_score", "at least 0 and at most 1"),
        ("near_duplicates", {"threshold": 0.2}, "near_duplicates.threshold", "at least 0.3 and at most 1"),
        ("split", {"max_train_rows": -1}, "split.max_train_rows", "at least 0"),
        ("split", {"validation_fraction": 1}, "split.validation_fraction", "at least 0 and below 1"),
        (
            "split",
            {"validation_fraction": 0.6, "holdout_fraction": 0.4},
            "split.holdout_fraction",
            "nothing to train",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_stage(stage: str, settings: Any, key: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"stages": [{"stage": stage, "settings": settings}, {"stage": "split"}]})
    assert caught.value.metadata["key"] == key
    assert says in str(caught.value)
    assert caught.value.violations[0].field == f"recipe.{key}"


@pytest.mark.parametrize(
    ("recipe", "key", "says"),
    [
        ([], "recipe", "mapping"),
        ({"stagse": []}, "stagse", "did you mean stages?"),
        ({"stages": "clean"}, "stages", "must be a list of stages"),
        ({"stages": ["clean"]}, "stages[0]", "mapping"),
        ({"stages": [{"stage": "neer_duplicates"}]}, "stages[0].stage", "did you mean near_duplicates?"),
        ({"stages": [{}]}, "stages[0].stage", "choose one of clean, contradictions, "),
        ({"stages": [{"stage": "split"}, {"stage": "split"}]}, "stages", "split is listed twice"),
        ({"stages": [{"stage": "clean"}]}, "stages", "add split"),
    ],
)
def test_a_wrong_list_of_stages_is_explained(recipe: Any, key: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe)
    assert caught.value.metadata["key"] == key
    assert says in str(caught.value)


def test_every_wrong_setting_of_a_stage_is_named_at_once() -> None:
    settings = {"max_row_characters": 0, "min_completion_characters": 0}
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"stages": [{"stage": "clean", "settings": settings}, {"stage": "split"}]})
    assert len(caught.value.violations) == 2


def test_not_a_number_is_no_fraction() -> None:
    for key in ("validation_fraction", "holdout_fraction"):
        with pytest.raises(RecipeError):
            parse_recipe({"stages": [{"stage": "split", "settings": {key: float("nan")}}]})
