from __future__ import annotations

import pytest
from google.protobuf import json_format
from luthier import config_files
from luthier.curation.v1.dataset_pb2 import CurationRecipe
from luthier.errors import ConfigError, UnknownKeyError
from luthier.evaluator.v1.evaluation_pb2 import ARM_ADAPTER_RAG, ARM_BASE, EvaluationConfig
from luthier.evaluator.v1.gate_pb2 import GATE_TIER_ADVISORY, GatePolicy
from luthier.trainer.v1.training_job_pb2 import TrainingConfig


def test_a_file_becomes_a_message_and_unset_differs_from_zero(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("rank: 8\nlearning_rate: 5e-4\nweight_decay: 0\ntarget_modules: [q_proj, v_proj]\nseed:\n")
    config = config_files.load(path, TrainingConfig)
    assert (config.rank, config.learning_rate, list(config.target_modules)) == (8, 5e-4, ["q_proj", "v_proj"])
    assert config.HasField("weight_decay")
    assert not config.HasField("seed")


def test_nested_steps_and_short_enum_values_are_understood():
    settings = {"action": "drop", "entities": ["IBAN_CODE"], "min_score": 0.5}
    recipe = config_files.load({"stages": [{"stage": "pii", "settings": settings}]}, CurationRecipe)
    assert json_format.MessageToDict(recipe) == {"stages": [{"stage": "pii", "settings": settings}]}
    config = config_files.load({"arms": ["base", "ARM_ADAPTER_RAG"]}, EvaluationConfig)
    assert list(config.arms) == [ARM_BASE, ARM_ADAPTER_RAG]
    condition = {"metric": "rouge_l", "tier": "advisory", "at_least": -0.01}
    policy = config_files.load({"conditions": [condition]}, GatePolicy)
    assert policy.conditions[0].tier == GATE_TIER_ADVISORY


@pytest.mark.parametrize(
    ("mapping", "kind", "path", "nearest"),
    [
        ({"lerning_rate": 1}, TrainingConfig, "lerning_rate", "learning_rate"),
        ({"stages": [{"stage": "split", "setings": {}}]}, CurationRecipe, "stages[0].setings", "settings"),
        ({"conditions": [{"metrc": "x"}]}, GatePolicy, "conditions[0].metrc", "metric"),
        ({"zzz": 1}, TrainingConfig, "zzz", ""),
        ({"create_tim": 1}, GatePolicy, "create_tim", ""),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_the_nearest_known_one(mapping, kind, path, nearest):
    with pytest.raises(UnknownKeyError) as caught:
        config_files.load(mapping, kind)
    assert (caught.value.path, caught.value.nearest) == (path, nearest)
    assert path in str(caught.value)
    assert nearest in str(caught.value)


@pytest.mark.parametrize(
    ("mapping", "kind", "path"),
    [
        ({"rank": "many"}, TrainingConfig, "rank"),
        ({"rank": 1.5}, TrainingConfig, "rank"),
        ({"learning_rate": "fast"}, TrainingConfig, "learning_rate"),
        ({"use_rslora": 1}, TrainingConfig, "use_rslora"),
        ({"dtype": 16}, TrainingConfig, "dtype"),
        ({"target_modules": "q_proj"}, TrainingConfig, "target_modules"),
        ({"stages": [{"stage": 3}]}, CurationRecipe, "stages[0].stage"),
        ({"stages": {"stage": "pii"}}, CurationRecipe, "stages"),
        ({"stages": ["pii"]}, CurationRecipe, "stages[0]"),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_its_path(mapping, kind, path):
    with pytest.raises(ConfigError) as caught:
        config_files.load(mapping, kind)
    assert caught.value.metadata["path"] == path


def test_a_number_that_does_not_fit_its_field_is_refused():
    with pytest.raises(ConfigError, match="TrainingConfig"):
        config_files.load({"rank": 10**12}, TrainingConfig)


@pytest.mark.parametrize(("text", "message"), [("a: [1\nb: 2", "line 2"), ("- 1", "mapping"), ("", None)])
def test_a_file_that_is_no_mapping_is_named(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    if message is None:
        assert config_files.load(path, TrainingConfig) == TrainingConfig()
        return
    with pytest.raises(ConfigError, match=message):
        config_files.load(path, TrainingConfig)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        config_files.load(tmp_path / "nowhere.yaml", TrainingConfig)
