"""Which engine runs, by configuration; and what cannot work is refused at the start, with its variable."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from luthierd.config import ConfigError
from luthierd.inference.config import InferenceConfig
from luthierd.inference.engine import engines
from luthierd.inference.engine.engines import chosen_engine
from luthierd.inference.engine.transformers_engine import start_transformers
from luthierd.inference.engine.vllm_engine import start_vllm


def start(**fields: Any) -> tuple[object, object]:
    """The start of the chosen engine, and its configuration."""
    chosen = chosen_engine(InferenceConfig(**fields))
    assert isinstance(chosen, functools.partial)
    return chosen.func, chosen.keywords["config"]


def test_vllm_is_the_default_and_takes_how_many_devices_share_a_model() -> None:
    fields = {"tensor_parallel": 4, "pipeline_parallel": 2, "distributed_executor": "mp", "max_num_seqs": 7}
    assert start(**fields) == (start_vllm, InferenceConfig(**fields))


def test_transformers_is_chosen_by_name() -> None:
    config = InferenceConfig(engine="transformers", dtype="float32")
    assert start(engine="transformers", dtype="float32") == (start_transformers, config)


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
    assert start(distributed_executor="ray") == (start_vllm, InferenceConfig(distributed_executor="ray"))
