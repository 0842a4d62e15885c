"""What a parity check compares, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field

from luthierd.inference.domain.engine import Stage


@dataclass(frozen=True, kw_only=True)
class ReferenceRow:
    """A greedy continuation as the training recorded it, with its log-probabilities without and with the adapter."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...] = field(default=())
    base_logprobs: tuple[float, ...] = field(default=())
    tuned_logprobs: tuple[float, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class ParityCertificate:
    """What the proof of a loaded adapter found. Deviations are means of absolute differences, per completion token.

    `deviation`: engine with the adapter against the training's record of it; `base_deviation`: the same without it;
    `effect`: engine with against engine without. `row_count` 0: nothing was recorded, only the effect is proved.
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
class Proof:
    """A loaded adapter's certificate, and how long each stage took to get it there."""

    certificate: ParityCertificate
    stages: tuple[Stage, ...] = ()
