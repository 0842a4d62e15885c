"""The proof that an adapter does something in this engine, and what it was trained to do: train/serve parity.

Adapters that silently do nothing are common in serving engines (vllm 34186, 41754, 48019): answers come, the base's.
The training ships token ids and log-probabilities of greedy continuations; the engine scores the same tokens.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from luthierd.inference.adapters.checks import REFERENCE
from luthierd.inference.domain.completion import Turn
from luthierd.inference.domain.errors import AdapterDeviatesError, AdapterHasNoEffectError
from luthierd.inference.domain.parity import ParityCertificate, ReferenceRow
from luthierd.inference.engine.engine import Engine, EngineAdapter

MIN_EFFECT_NATS = 1e-3
"""Equal weights differ by 1e-5 at most between batches (float32, measured); a trained adapter by whole nats."""


class Parity(NamedTuple):
    """What agreement with the training takes."""

    tolerance_nats: float
    """Mean absolute difference per completion token."""
    token_count: int
    """Completion tokens to compare at least, in the shortest rows that have so many: each costs its prefill."""


EXACT, ROUNDED = Parity(1e-3, 8), Parity(0.06, 32)
"""Where training and engine both compute in float32, and where one does not. Measured with the demo's adapters (135M
parameters, rank 16): equal weights differ by 2e-6 in float32, by .008 to .024 between bfloat16 and float32. A lost
k_proj gives .007, a lost layer .011 to .04, a scale of 1.1 .015, a halved or doubled one .11 and .16: in float32 each
of these is refused, in bfloat16 a wrong scale. In float32 any row tells: three rows of two adapters, of 16 tokens, each
differ by .0018 to .0092 without a single k_proj of 30. Rounding leaves a mean that needs more tokens.
"""

EFFECT_ROWS = 1
"""Of the compared rows, those that are scored without the adapter as well."""

FALLBACK = (Turn("user", "Describe this function in one line: def mean(values): return sum(values) / len(values)"),)


@dataclass(frozen=True)
class Reference:
    """What the training recorded. `dtype`: in what it computed; empty if it recorded nothing."""

    dtype: str = ""
    rows: tuple[ReferenceRow, ...] = ()


def read_reference(folder: pathlib.Path) -> Reference:
    """The log-probabilities that the training recorded; none if it recorded none or in a form that is not known."""
    try:
        content = json.loads((folder / REFERENCE).read_text())
        rows = tuple(
            ReferenceRow(
                prompt_ids=tuple(map(int, row["prompt_ids"])),
                completion_ids=tuple(map(int, row["completion_ids"])),
                base_logprobs=tuple(map(float, row.get("base_logprobs", ()))),
                tuned_logprobs=tuple(map(float, row.get("tuned_logprobs", ()))),
            )
            for row in content["rows"]
        )
        return Reference(str(content.get("dtype", "")), rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Reference()


async def prove(engine: Engine, adapter: EngineAdapter, *, clock: Callable[[], float] = time.time) -> ParityCertificate:
    """The certificate. AdapterHasNoEffectError if the engine answers as without the adapter, AdapterDeviatesError if
    not as the training did. One prompt at a time and in the background: others' next tokens go first.
    """
    reference = read_reference(adapter.folder)
    parity = EXACT if {engine.dtype, reference.dtype or engine.dtype} == {"float32"} else ROUNDED
    recorded = _enough(reference.rows, parity.token_count)
    rows = recorded
    if not rows:
        tokens = engine.render_chat(FALLBACK)
        rows = [ReferenceRow(prompt_ids=tokens[: len(tokens) // 2], completion_ids=tokens[len(tokens) // 2 :])]
    tuned = [await _scored(engine, row, adapter) for row in rows]
    base = [await _scored(engine, row, None) for row in rows[:EFFECT_ROWS]]
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


async def _scored(engine: Engine, row: ReferenceRow, adapter: EngineAdapter | None) -> tuple[float, ...]:
    return await engine.score(row.prompt_ids, row.completion_ids, adapter, is_background=True)


def _check(certificate: ParityCertificate) -> None:
    if not certificate.effect_max_nats >= MIN_EFFECT_NATS:  # also refuses what is no number
        raise AdapterHasNoEffectError(
            f"the engine answers with the adapter as without it (at most {certificate.effect_max_nats:.1e} nats off); "
            "train it longer, or check that its target modules exist in the base model",
            metadata={"effect_nats": f"{certificate.effect_max_nats:.1e}"},
        )
    if not certificate.deviation_mean_nats <= certificate.tolerance_nats:
        raise AdapterDeviatesError(
            f"the engine's log-probabilities are {certificate.deviation_mean_nats:.4f} nats off those of the training, "
            f"where {certificate.tolerance_nats} are allowed; was it trained on this base model?",
            metadata={
                "deviation_nats": f"{certificate.deviation_mean_nats:.4f}",
                "limit": str(certificate.tolerance_nats),
            },
        )


def _is_whole(row: ReferenceRow) -> bool:
    return bool(row.prompt_ids) and 0 < len(row.completion_ids) == len(row.tuned_logprobs)


def _enough(rows: Sequence[ReferenceRow], token_count: int) -> list[ReferenceRow]:
    """The shortest rows that have so many completion tokens together, or all."""
    chosen: list[ReferenceRow] = []
    for row in sorted(filter(_is_whole, rows), key=lambda row: len(row.prompt_ids)):
        if sum(len(one.completion_ids) for one in chosen) >= token_count:
            break
        chosen.append(row)
    return chosen


def _differences(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> list[float]:
    """Token by token; rows without a partner, or of another length, are left out."""
    return [
        abs(a - b)
        for left, right in zip(one, other, strict=False)
        if len(left) == len(right)
        for a, b in zip(left, right, strict=True)
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
