"""Which engine runs, by configuration; and what cannot work is refused at the start, with its variable."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from luthierd.config import ConfigError
from luthierd.inference.config import InferenceConfig
from luthierd.inference.engine import engines
from luthierd.inference.engine.engines import chosen_engine
from luthierd.inference.engine.transformers_engine import TransformersSettings
from luthierd.inference.engine.vllm_engine import VllmSettings


def settings(**fields: Any) -> object:
    """What the chosen engine would be started with."""
    start = chosen_engine(InferenceConfig(**fields))
    assert isinstance(start, functools.partial)
    return start.keywords["settings"]


def test_vllm_is_the_default_and_takes_how_many_devices_share_a_model() -> None:
    made = settings(tensor_parallel=4, pipeline_parallel=2, distributed_executor="mp", max_num_seqs=7)
    assert made == VllmSettings(tensor_parallel=4, pipeline_parallel=2, distributed_executor="mp", max_num_seqs=7)


def test_transformers_is_chosen_by_name() -> None:
    assert settings(engine="transformers", dtype="float32") == TransformersSettings(dtype="float32")


@pytest.mark.parametrize(
    ("fields", "variable"),
    [
        ({"engine": "vlm"}, "ENGINE"),
        ({"distributed_executor": "slurm"}, "DISTRIBUTED_EXECUTOR"),
        ({"tensor_parallel": 0}, "TENSOR_PARALLEL"),
        ({"pipeline_parallel": -1}, "PIPELINE_PARALLEL"),
        ({"tensor_parallel": 2, "engine": "transformers"}, "ENGINE"),
        ({"tensor_parallel": 2, "distributed_executor": "uni"}, "DISTRIBUTED_EXECUTOR"),
    ],
)
def test_what_cannot_work_is_refused_with_its_variable(fields: dict[str, Any], variable: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chosen_engine(InferenceConfig(**fields))
    assert caught.value.metadata["variable"] == f"LUTHIER_INFERENCE_{variable}"


def test_ray_must_be_installed_to_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"luthier\[ray\]"):
        chosen_engine(InferenceConfig(tensor_parallel=8, distributed_executor="ray"))
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: object())
    assert settings(distributed_executor="ray") == VllmSettings(distributed_executor="ray")
