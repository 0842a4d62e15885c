"""Which engine runs, by configuration. Imports no model library by itself."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from typing import Any, NamedTuple

from luthierd.config import ConfigError
from luthierd.inference.config import InferenceConfig
from luthierd.inference.domain.errors import HttpUnsupportedError
from luthierd.inference.engine.engine import Engine, StartEngine
from luthierd.inference.engine.transformers_engine import TransformersSettings, start_transformers
from luthierd.inference.engine.vllm_engine import VllmSettings, start_vllm
from luthierd.inference.engine.vllm_openai import openai_application
from luthierd.inference.http.front import Application, BuildApplication

ENGINES = ("vllm", "transformers")
EXECUTORS = ("auto", "uni", "mp", "ray")


class ChosenEngine(NamedTuple):
    """How to start it, and how to make its OpenAI application."""

    start: StartEngine
    openai_application: BuildApplication


def chosen_engine(config: InferenceConfig) -> ChosenEngine:
    """The engine that `config.engine` names. ConfigError for what cannot work on any machine, or not on this one."""
    _check(config)
    if config.engine == "transformers":
        transformers = TransformersSettings(**_settings(config, TransformersSettings))
        return ChosenEngine(functools.partial(start_transformers, settings=transformers), _no_application)
    vllm = VllmSettings(**_settings(config, VllmSettings))
    return ChosenEngine(functools.partial(start_vllm, settings=vllm), openai_application)


def _settings(config: InferenceConfig, cls: type) -> dict[str, Any]:
    """The values of the fields that the settings have in common with the configuration."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(cls) if hasattr(config, field.name)}


def _check(config: InferenceConfig) -> None:
    _one_of(config.engine, ENGINES, "ENGINE")
    _one_of(config.distributed_executor, EXECUTORS, "DISTRIBUTED_EXECUTOR")
    for name in ("tensor_parallel", "pipeline_parallel"):
        if (value := getattr(config, name)) < 1:
            raise _wrong(name.upper(), str(value), "it must be 1 or more")
    devices = config.tensor_parallel * config.pipeline_parallel
    if devices > 1 and config.engine != "vllm":
        raise _wrong("ENGINE", config.engine, f"it uses one device, not {devices}; choose vllm")
    if devices > 1 and config.distributed_executor == "uni":
        raise _wrong("DISTRIBUTED_EXECUTOR", "uni", f"one process cannot use {devices} devices; choose mp or ray")
    if config.distributed_executor == "ray" and importlib.util.find_spec("ray") is None:
        raise _wrong("DISTRIBUTED_EXECUTOR", "ray", "Ray is not installed; pip install 'luthier[ray]'")


def _one_of(value: str, known: tuple[str, ...], variable: str) -> None:
    if value not in known:
        raise _wrong(variable, value, f"it must be one of {', '.join(known)}")


def _wrong(variable: str, value: str, problem: str) -> ConfigError:
    variable = f"LUTHIER_INFERENCE_{variable}"
    return ConfigError(f"{variable}={value}: {problem}", metadata={"variable": variable, "value": value})


async def _no_application(engine: Engine) -> Application:
    raise HttpUnsupportedError(engine.version)
