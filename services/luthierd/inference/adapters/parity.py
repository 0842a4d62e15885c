"""The parity check: an adapter has an effect in this engine, and it is the effect that it was trained to have.

Adapters that silently do nothing are common in serving engines (vllm 34186, 41754, 48019): the base model answers.
The training ships token ids and log-probabilities of greedy continuations; the engine scores the same tokens.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from luthierd.codec import from_json
from luthierd.inference.adapters.checks import REFERENCE
from luthierd.inference.domain.completion import Turn
from luthierd.inference.domain.errors import AdapterDeviatesError, AdapterHasNoEffectError
from luthierd.inference.domain.parity import ParityCertificate, ReferenceRow
from luthierd.inference.engine.engine import Engine, EngineAdapter

MIN_EFFECT_NATS = 1e-3
"""Equal weights differ by up to 1e-5 between batches (float32, measured); a trained adapter by several nats."""


class Parity(NamedTuple):
    """What counts as agreement with the training."""

    tolerance_nats: float
    """Mean absolute difference per completion token."""
    token_count: int
    """Completion tokens to compare at least, in the shortest rows that have so many: each costs its prefill."""


EXACT, ROUNDED = Parity(1e-3, 8), Parity(0.06, 32)
"""If training and engine both compute in float32, and if one does not. Measured with the demo's adapters (135M
parameters, rank 16): equal weights differ by 2e-6 in float32, by .008 to .024 between bfloat16 and float32. A lost
k_proj gives .007, a lost layer .011 to .04, a scale of 1.1 .015, a halved or doubled one .11 and .16: in float32 each
of these is refused, in bfloat16 a wrong scale. In float32 any row shows it: three rows of two adapters, of 16 tokens,
each differ by .0018 to .0092 without a single k_proj of 30. The mean of rounding errors needs more tokens.
"""

EFFECT_ROWS = 1
"""Number of compared rows that are also scored without the adapter."""

FALLBACK = (Turn("user", "Describe this function in one line: def mean(values): return sum(values) / len(values)"),)


@dataclass(frozen=True)
class Reference:
    """What the training recorded. `dtype`: its data type; empty if it recorded nothing."""

    dtype: str = ""
    rows: tuple[ReferenceRow, ...] = ()


def read_reference(folder: pathlib.Path) -> Reference:
    """The log-probabilities recorded by the training; an empty one if there are none, or in an unknown format."""
    try:
        return from_json(Reference, json.loads((folder / REFERENCE).read_text()))
    except (OSError, ValueError, RecursionError, msgspec.ValidationError):
        return Reference()


async def check_parity(
    engine: Engine, adapter: EngineAdapter, *, clock: Callable[[], float] = time.time
) -> ParityCertificate:
    """AdapterHasNoEffectError if the engine answers as without the adapter, AdapterDeviatesError if not as in training.

    Scores one prompt at a time, in the background: the next tokens of other requests go first.
    """
    reference = read_reference(adapter.folder)
    parity = EXACT if {engine.dtype, reference.dtype or engine.dtype} == {"float32"} else ROUNDED
    recorded = _shortest(reference.rows, parity.token_count)
    rows = recorded
    if not rows:
        tokens = engine.render_chat(FALLBACK)
        rows = [ReferenceRow(prompt_ids=tokens[: len(tokens) // 2], completion_ids=tokens[len(tokens) // 2 :])]

    async def score(row: ReferenceRow, adapter: EngineAdapter | None) -> tuple[float, ...]:
        return await engine.score(row.prompt_ids, row.completion_ids, adapter, is_background=True)

    tuned = [await score(row, adapter) for row in rows]
    base = [await score(row, None) for row in rows[:EFFECT_ROWS]]
    effects = _differences(base, tuned)
    deviations = _differences(tuned, [row.tuned_logprobs for row in recorded])
    base_deviations = _differences(base, [row.base_logprobs for row in recorded])
    certificate = ParityCertificate(
        row_count=len(recorded),
        token_count=len(deviations),
        deviation_mean_nats=_mean(deviations),
        deviation_max_nats=max(deviations, default=0.0),
        base_deviation_mean_nats=_mean(base_deviations),
        effect_mean_nats=_mean(effects),
        effect_max_nats=max(effects, default=0.0),
        tolerance_nats=parity.tolerance_nats,
        engine_version=engine.version,
        engine_dtype=engine.dtype,
        training_dtype=reference.dtype,
        check_time=clock(),
    )
    _check(certificate)
    return certificate


def _check(certificate: ParityCertificate) -> None:
    if not certificate.effect_max_nats >= MIN_EFFECT_NATS:  # NaN is refused, too
        effect_nats = f"{certificate.effect_max_nats:.1e}"
        raise AdapterHasNoEffectError(
            f"the engine answers the same with and without the adapter (at most {effect_nats} nats difference); "
            "train it longer, or check that its target modules exist in the base model",
            metadata={"effect_nats": effect_nats},
        )
    if not certificate.deviation_mean_nats <= certificate.tolerance_nats:
        deviation_nats = f"{certificate.deviation_mean_nats:.4f}"
        raise AdapterDeviatesError(
            f"the engine's log-probabilities are {deviation_nats} nats off those of the training, where "
            f"{certificate.tolerance_nats} are allowed; was it trained on this base model?",
            metadata={"deviation_nats": deviation_nats, "limit": str(certificate.tolerance_nats)},
        )


def _shortest(rows: Sequence[ReferenceRow], token_count: int) -> list[ReferenceRow]:
    """The complete rows with the shortest prompts that have `token_count` completion tokens together, or all."""
    chosen: list[ReferenceRow] = []
    complete = [row for row in rows if row.prompt_ids and 0 < len(row.completion_ids) == len(row.tuned_logprobs)]
    for row in sorted(complete, key=lambda row: len(row.prompt_ids)):
        if sum(len(one.completion_ids) for one in chosen) >= token_count:
            break
        chosen.append(row)
    return chosen


def _differences(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> list[float]:
    """Token by token; rows without a partner, or of another length, are left out."""
    pairs = [zip(left, right, strict=True) for left, right in zip(one, other, strict=False) if len(left) == len(right)]
    return [abs(a - b) for pair in pairs for a, b in pair]


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0
