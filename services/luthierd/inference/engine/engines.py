"""Which engine runs, by configuration. Imports no model library itself."""

from __future__ import annotations

import functools
import importlib.util

from luthierd.config import ConfigError
from luthierd.inference.config import InferenceConfig
from luthierd.inference.engine.engine import StartEngine
from luthierd.inference.engine.transformers_engine import start_transformers
from luthierd.inference.engine.vllm_engine import start_vllm

ENGINES = ("vllm", "transformers")
EXECUTORS = ("auto", "uni", "mp", "ray")


def chosen_engine(config: InferenceConfig) -> StartEngine:
    """Starts the engine that `config.engine` names. ConfigError if the settings cannot work on this machine."""
    _check(config)
    return functools.partial(start_transformers if config.engine == "transformers" else start_vllm, config=config)


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
        raise _wrong(variable, value, f"choose one of {', '.join(known)}")


def _wrong(variable: str, value: str, problem: str) -> ConfigError:
    variable = f"LUTHIER_INFERENCE_{variable}"
    return ConfigError(f"{variable}={value}: {problem}", metadata={"variable": variable, "value": value})
