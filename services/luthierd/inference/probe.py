"""The proof, at every load, that an adapter does something and what it was trained to do.

Adapters that silently do nothing are common in serving engines (vllm 34186, 41754, 48019): answers come, the base's.
"""

from __future__ import annotations

from collections.abc import Sequence

from luthierd.inference.artifacts import read_reference
from luthierd.inference.domain import ReferenceRow, Turn
from luthierd.inference.engine_host import Engine, EngineAdapter
from luthierd.inference.errors import AdapterDeviatesError, AdapterHasNoEffectError

MIN_EFFECT = 1e-3
"""Nats. Equal weights differ by 1e-5 at most between batches (float32, measured); a trained adapter by whole nats."""

MAX_MEAN_DEVIATION = 0.25
"""Nats per token between training and engine. bfloat16 gives some hundredths; a wrong scale or a lost layer more."""

ROWS = 2
"""Reference rows that are scored, twice each."""

FALLBACK = (Turn("user", "Describe this function in one line: def mean(values): return sum(values) / len(values)"),)


async def probe(engine: Engine, adapter: EngineAdapter) -> None:
    """AdapterHasNoEffectError if the engine answers as without it, AdapterDeviatesError if not as the training did."""
    rows = [row for row in read_reference(adapter.folder) if row.prompt_ids and row.completion_ids][:ROWS]
    if not rows:
        tokens = engine.render_chat(FALLBACK)
        rows = [ReferenceRow(prompt_ids=tokens[: len(tokens) // 2], completion_ids=tokens[len(tokens) // 2 :])]
    effect, deviations = 0.0, list[float]()
    for row in rows:
        base = await engine.score(row.prompt_ids, row.completion_ids, None)
        tuned = await engine.score(row.prompt_ids, row.completion_ids, adapter)
        effect = max(effect, _largest_difference(base, tuned))
        if len(row.tuned_logprobs) == len(tuned):
            deviations += [abs(got - trained) for got, trained in zip(tuned, row.tuned_logprobs, strict=True)]
    if effect < MIN_EFFECT:
        raise AdapterHasNoEffectError(
            f"the engine answers with the adapter as without it (at most {effect:.1e} nats off); train it longer, "
            "or check that its target modules exist in the base model",
            metadata={"effect_nats": f"{effect:.1e}"},
        )
    deviation = sum(deviations) / len(deviations) if deviations else 0.0
    if deviation > MAX_MEAN_DEVIATION:
        raise AdapterDeviatesError(
            f"the engine's log-probabilities are {deviation:.2f} nats off those of the training, where "
            f"{MAX_MEAN_DEVIATION} are allowed; was it trained on this base model?",
            metadata={"deviation_nats": f"{deviation:.3f}", "limit": str(MAX_MEAN_DEVIATION)},
        )


def _largest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    return max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)
