"""Which weights gave an answer, told by its log-probabilities.

Where the engine computes in bfloat16, the text of a greedy answer depends on the batch: between two almost equally
likely tokens rounding decides. Its log-probabilities barely do: those that the engine reported while it generated agree
with those that the same weights give the same tokens afterwards, and with those of no other weights. (Its likelihood
would be a weaker sign: another revision may be surer of the same text.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LIMIT_NATS = 0.09
"""How far off the named weights may be, in nats per token. Measured over 200 answers of 16 tokens from the demo's three
adapters and base model in bfloat16: the same weights are .01 to .045 off, the nearest others .18 or more; this is the
geometric mean of the two. In float32 the same weights are less than 1e-4 off.
"""
MARGIN = 2.0
"""How many times farther off all other weights must be. In the same measurement they were 5 times or more."""


def deviation_nats(generated: Sequence[float], scored: Sequence[float]) -> float:
    """Mean absolute difference per token; infinite for an answer without tokens."""
    differences = [abs(one - other) for one, other in zip(generated, scored, strict=True)]
    return sum(differences) / len(differences) if differences else float("inf")


def is_from(named: str, deviations: Mapping[str, float]) -> bool:
    """Whether an answer is from the weights that it names. deviations: of the answer, by weights."""
    own = deviations[named]
    others = (deviation for weights, deviation in deviations.items() if weights != named)
    return own <= LIMIT_NATS and all(other >= MARGIN * own for other in others)
