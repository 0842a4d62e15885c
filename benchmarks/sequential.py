"""A sequential evaluation compared with one of fixed size: the share of queries that it uses, at equal error.

Simulated evaluations of 200 queries in groups of one: paired differences with a true effect of 0, small (.2 standard
deviations) and large (.8; Cohen 1988). 200 queries detect the small effect with power .8. Both designs read the same
scores. Takes seconds on one core, without a model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Message, Row
from luthierd.evaluator.domain.sequential import SequentialOutcome, SequentialTarget
from luthierd.evaluator.run.sequential import FINAL_CONFIDENCE, rounds_of, run_rounds
from luthierd.statistics import clustered
from scipy import special

from benchmarks import results

EFFECTS = {"none": 0.0, "small": 0.2, "large": 0.8}
QUERIES, ROUND, SPREAD, SAMPLES = 200, 20, 0.25, 1000
TARGET = SequentialTarget(Metric("rouge_l"), Arm.ADAPTER, Arm.BASE)
BOTH = [(TARGET.metric, TARGET.arm), (TARGET.metric, TARGET.reference)]


@dataclass(frozen=True)
class Verdict:
    """-1 worse, 0 not shown, 1 better; and the queries used."""

    sign: int
    query_count: int


def measure(*, samples: int = SAMPLES) -> Iterator[dict[str, object]]:
    """The share of queries per effect and on average, then the errors of both designs."""
    rng = np.random.default_rng(20)
    shares: list[list[tuple[float, float]]] = []
    for name, effect in EFFECTS.items():
        seen = [_both(rng.normal(effect * SPREAD, SPREAD, QUERIES), seed) for seed in range(samples)]
        pairs = [(float(ours.query_count), float(fixed.query_count)) for ours, fixed in seen]
        shares.append(pairs)
        yield _share(f"queries spent: sequential / fixed size, effect {name}", [_mean(pairs)], target="-")
        yield from _errors(name, effect, seen)
    means = [_mean(pairs) for pairs in shares]
    overall = (sum(ours for ours, _ in means) / len(means), sum(fixed for _, fixed in means) / len(means))
    yield _share("queries spent: sequential / fixed size, mean of the three effects", [overall], target="<= 0.6")


def _errors(name: str, effect: float, seen: Sequence[tuple[Verdict, Verdict]]) -> Iterator[dict[str, object]]:
    """The share of evaluations that prove an effect (all false if there is none), and the agreement of the designs."""
    right = 1 if effect else 0
    wrong = tuple(
        sum(verdict.sign != 0 if not effect else verdict.sign == right for verdict in side) / len(seen)
        for side in zip(*seen, strict=True)
    )
    what = "proved" if effect else "falsely proved"
    yield _share(f"share {what}: sequential / fixed size, effect {name}", [(wrong[0], wrong[1])], target="-")
    agreed = sum(ours.sign == fixed.sign for ours, fixed in seen) / len(seen)
    yield _share(f"share of equal verdicts, effect {name}", [(agreed, 1.0)], target="-")


def _both(differences: npt.NDArray[np.float64], seed: int) -> tuple[Verdict, Verdict]:
    rows = [
        Row(id=f"r{number}", group=f"g{number}", label=None, prompt=(Message("user", ""),), reference="")
        for number in range(QUERIES)
    ]
    value = dict(zip((row.id for row in rows), differences.tolist(), strict=True))

    async def ask(arms: Sequence[Arm], batch: Sequence[Row]) -> Mapping[tuple[Metric, Arm], Sequence[float]]:
        return {BOTH[0]: [value[row.id] for row in batch], BOTH[1]: [0.0 for _ in batch]}

    asked = asyncio.run(run_rounds(rounds_of(rows, ROUND, seed=seed), [TARGET.arm, TARGET.reference], [TARGET], ask))
    decision = asked.decisions[0]
    signs = {SequentialOutcome.ABOVE: 1, SequentialOutcome.BELOW: -1, SequentialOutcome.FUTILE: 0}
    sign = signs.get(decision.outcome)
    if sign is None:
        sign = _fixed(differences, FINAL_CONFIDENCE)
    return Verdict(sign, decision.row_count), Verdict(_fixed(differences, clustered.CONFIDENCE), QUERIES)


def _fixed(differences: npt.NDArray[np.float64], confidence: float) -> int:
    """Student's interval, which the bootstrap of 200 independent differences approximates."""
    half = special.stdtrit(QUERIES - 1, (1 + confidence) / 2) * differences.std(ddof=1) / np.sqrt(QUERIES)
    return int(differences.mean() > half) - int(differences.mean() < -half)


def _mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(ours for ours, _ in pairs) / len(pairs), sum(fixed for _, fixed in pairs) / len(pairs)


def _share(name: str, pairs: Sequence[tuple[float, float]], *, target: str) -> dict[str, object]:
    return results.ratio("sequential", name, pairs, target=target)
