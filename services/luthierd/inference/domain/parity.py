"""What a parity check compares, and its result."""

from __future__ import annotations

from dataclasses import dataclass

from luthierd.inference.domain.engine import Stage


@dataclass(frozen=True, kw_only=True)
class ReferenceRow:
    """A greedy continuation recorded by the training, with its log-probabilities without and with the adapter."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...] = ()
    base_logprobs: tuple[float, ...] = ()
    tuned_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ParityCertificate:
    """The result of a parity check. All differences are absolute, per completion token.

    Deviation: engine with the adapter against the training with it; base deviation: both without it; effect: engine
    with the adapter against the engine without it. `row_count` 0: the training recorded nothing, only the effect was
    checked.
    """

    row_count: int
    token_count: int
    deviation_mean_nats: float
    deviation_max_nats: float
    base_deviation_mean_nats: float
    effect_mean_nats: float
    effect_max_nats: float
    tolerance_nats: float
    engine_version: str
    engine_dtype: str
    training_dtype: str
    check_time: float


@dataclass(frozen=True, kw_only=True)
class ParityCheck:
    """A passed check, and how long each stage of loading the adapter took."""

    certificate: ParityCertificate
    stages: tuple[Stage, ...] = ()
