"""An evaluation in rounds of whole groups in random order; after each, an arm whose differences are all decided stops.

A target's chance of being wrong, .05 in all, is spent twice: .01 on a confidence sequence that may end it after any
round, .04 on the ordinary interval over all rows. Giving up (FUTILE) claims nothing and costs only power.
Everything is a function of rows, seed and scores: a resumed evaluation decides the same.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Row
from luthierd.evaluator.domain.sequential import SequentialDecision, SequentialOutcome, SequentialTarget
from luthierd.statistics import confidence_sequences as sequences
from luthierd.statistics.compare import paired_differences
from luthierd.statistics.estimates import Interval

# Together .05. By simulation (docs/decisions/0013) a larger share for the sequence ends large differences hardly sooner
# and proves fewer small ones.
SEQUENCE_ALPHA = 0.01
FINAL_CONFIDENCE = 0.96
# Of proving anything with all rows. At .1 a few more queries are saved and twice as many small differences lost.
FUTILE_PROBABILITY = 0.05

# Asks these arms these rows; returns the value of each (metric, arm) on them, row by row. A failed row is None.
AskRound = Callable[[Sequence[Arm], Sequence[Row]], Awaitable[Mapping[tuple[Metric, Arm], Sequence[float | None]]]]


@dataclass(frozen=True)
class SequentialAsked:
    """What was asked: rows in the order of asking, how many of them each arm got, and what was decided."""

    rows: Sequence[Row]
    row_counts: Mapping[Arm, int]
    decisions: tuple[SequentialDecision, ...]

    def is_exhausted(self, arm: Arm) -> bool:
        return self.row_counts[arm] == len(self.rows)


def rounds_of(rows: Sequence[Row], round_size: int, *, seed: int) -> list[list[Row]]:
    """The rows by rounds of whole groups, each of at least `round_size` rows (the last one of what is left)."""
    by_group: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_group[row.group].append(row)
    order = sorted(by_group)
    random.Random(f"sequential {seed}").shuffle(order)  # noqa: S311
    rounds: list[list[Row]] = [[]]
    for group in order:
        if len(rounds[-1]) >= round_size:
            rounds.append([])
        rounds[-1].extend(by_group[group])
    return rounds


async def ask_in_rounds(
    rounds: Sequence[Sequence[Row]], arms: Sequence[Arm], targets: Sequence[SequentialTarget], ask: AskRound
) -> SequentialAsked:
    """Asks until every target is decided or all rows are asked. Every arm must be in a target."""
    seen = _Seen(len({row.group for batch in rounds for row in batch}))
    decided: dict[SequentialTarget, SequentialDecision] = {}
    row_counts = dict.fromkeys(arms, 0)
    for number, batch in enumerate(rounds, start=1):
        open_targets = [target for target in targets if target not in decided]
        wanted = [arm for arm in arms if any(arm in (target.arm, target.reference) for target in open_targets)]
        if not wanted:
            break
        seen.add(batch, await ask(wanted, batch))
        for arm in wanted:
            row_counts[arm] += len(batch)
        for target in open_targets:
            decision = seen.look(target, round_count=number, is_last=number == len(rounds))
            if decision is not None:
                decided[target] = decision
    rows = [row for batch in rounds for row in batch]
    return SequentialAsked(rows, row_counts, tuple(decided[target] for target in targets))


def sequence_of_differences(values: Sequence[float], groups: Sequence[str], total_group_count: int) -> Interval | None:
    """The interval of a mean difference that holds at every look."""
    mean = sequences.group_mean(values, groups, value_range=2.0)
    return _running(mean, total_group_count)


def _running(mean: sequences.GroupMean, total_group_count: int) -> Interval | None:
    # Large differences end before the middle of the rows and small ones after it.
    return sequences.running_interval(mean, alpha=SEQUENCE_ALPHA, tuned_group_count=total_group_count / 2)


@dataclass
class _Seen:
    """The rows and scores so far. An arm still in play was asked every row of them."""

    total_group_count: int
    rows: list[Row] = field(default_factory=list)
    values: dict[tuple[Metric, Arm], list[float | None]] = field(default_factory=lambda: defaultdict(list))

    def add(self, batch: Sequence[Row], scored: Mapping[tuple[Metric, Arm], Sequence[float | None]]) -> None:
        self.rows.extend(batch)
        for key, values in scored.items():
            self.values[key].extend(values)

    def look(self, target: SequentialTarget, *, round_count: int, is_last: bool) -> SequentialDecision | None:
        """The decision, or None to go on."""
        differences = paired_differences(
            self.values[target.metric, target.arm], self.values[target.metric, target.reference]
        )
        mean = sequences.group_mean(differences, [row.group for row in self.rows], value_range=2.0)
        interval = _running(mean, self.total_group_count)
        outcome = self._outcome(target, mean, interval, is_last=is_last)
        if outcome is None:
            return None
        return SequentialDecision(
            target=target,
            outcome=outcome,
            row_count=len(self.rows),
            group_count=mean.group_count,
            round_count=round_count,
            difference=mean.value,
            interval=interval,
        )

    def _outcome(
        self, target: SequentialTarget, mean: sequences.GroupMean, interval: Interval | None, *, is_last: bool
    ) -> SequentialOutcome | None:
        if is_last:
            return SequentialOutcome.EXHAUSTED
        if interval is None:
            return None
        if interval.low > target.at_least:
            return SequentialOutcome.ABOVE
        if interval.high < target.at_least:
            return SequentialOutcome.BELOW
        chance = sequences.proof_probability(
            mean,
            at_least=target.at_least,
            total_group_count=self.total_group_count,
            confidence=FINAL_CONFIDENCE,
        )
        return SequentialOutcome.FUTILE if chance < FUTILE_PROBABILITY else None
