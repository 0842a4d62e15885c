"""The search for a prompt: an instruction and examples, chosen on validation rows by sequential halving.

Candidates are instructions with draws of training rows as examples (labelled few-shot with random search, as DSPy's
optimisers draw them: Khattab et al. 2024). All are asked the same few rows, the better half goes on to more rows, until
one is left (Karnin, Koren & Somekh 2013): most of the budget goes to those that are hard to tell apart. The winner is
compared with the default prompt on validation rows that the search has not used, since a score by which something was
picked flatters it. Nothing here knows the holdout.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from luthierd.evaluator.domain.evaluation import DEFAULT_INSTRUCTION
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Row
from luthierd.evaluator.models.arms import fixed_shots
from luthierd.statistics import clustered, compare
from luthierd.statistics.estimates import Interval

INSTRUCTIONS = (
    DEFAULT_INSTRUCTION,
    "",
    "You do one task again and again. Study the examples, infer its rules, and answer the last question by them.",
    "Answer the last question as the examples answer theirs. Be exact: use words of the question where they fit, add "
    "nothing, leave nothing out.",
)
CLOSING_SHARE = 1 / 3
"""The share of the validation rows, and of the budget, that is kept for the closing measurement."""


@dataclass(frozen=True, kw_only=True)
class PromptSearch:
    """How to search, with every default filled in. Meaning and bounds: `PromptSearch` of the contract."""

    instructions: tuple[str, ...] = INSTRUCTIONS
    shot_count: int = 3
    candidate_count: int = 16
    query_budget: int = 400
    max_answer_tokens: int = 96
    concurrency: int = 16
    seed: int = 0
    metric: Metric | None = None


@dataclass(frozen=True)
class Candidate:
    """A prompt to try. `number` 0 is the default one."""

    number: int
    instruction: str
    examples: tuple[Row, ...]


@dataclass(frozen=True)
class Trial:
    """What became of a candidate: its mean over the rows that it was asked."""

    candidate: Candidate
    mean: float
    row_count: int


@dataclass(frozen=True)
class ValidationScore:
    """A mean over rows that the search did not use; `interval` is None with too few groups."""

    value: float
    interval: Interval | None
    row_count: int


@dataclass(frozen=True)
class Found:
    """What the search found."""

    best: Candidate
    score: ValidationScore
    default_score: ValidationScore
    trials: tuple[Trial, ...]


# Scores of one candidate on rows, in their order: 0 to 1, a failed row 0.
Ask = Callable[[Candidate, Sequence[Row]], Awaitable[Sequence[float]]]


def candidates(train: Sequence[Row], search: PromptSearch) -> list[Candidate]:
    """The default prompt, then instructions in turn, each with its own sample of examples; all distinct."""
    found = [Candidate(0, search.instructions[0], tuple(fixed_shots(train, search.shot_count, seed=search.seed)))]
    seen = {(found[0].instruction, frozenset(row.id for row in found[0].examples))}
    turns = itertools.islice(itertools.cycle(search.instructions), 1, 1 + 8 * search.candidate_count)
    for draw, instruction in enumerate(turns, start=1):
        examples = tuple(fixed_shots(train, search.shot_count, seed=search.seed + draw))
        key = (instruction, frozenset(row.id for row in examples))
        if key not in seen:
            seen.add(key)
            found.append(Candidate(len(found), instruction, examples))
        if len(found) == search.candidate_count:
            break
    return found


async def find_prompt(train: Sequence[Row], validation: Sequence[Row], search: PromptSearch, ask: Ask) -> Found:
    """The best candidate. At most `query_budget` queries; the same input asks the same queries again."""
    searched, closing = _parted(validation, search.seed)
    closing = closing[: int(search.query_budget * CLOSING_SHARE) // 2]
    tried = candidates(train, search)
    trials = await _halved(tried, searched, search.query_budget - 2 * len(closing), ask)
    best = max(trials, key=lambda trial: (trial.row_count, trial.mean, -trial.candidate.number)).candidate
    score = await _validation_score(best, closing, search.seed, ask)
    default = score if best is tried[0] else await _validation_score(tried[0], closing, search.seed, ask)
    return Found(best, score, default, tuple(sorted(trials, key=lambda trial: trial.candidate.number)))


def _parted(validation: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to search on, and rows for the closing measurement; no group is in both."""
    groups = sorted({row.group for row in validation})
    random.Random(seed).shuffle(groups)  # noqa: S311
    kept = set(groups[: max(1, round(len(groups) * CLOSING_SHARE))])
    order = random.Random(seed).sample(list(validation), len(validation))  # noqa: S311
    return [row for row in order if row.group not in kept], [row for row in order if row.group in kept]


async def _halved(tried: Sequence[Candidate], rows: Sequence[Row], budget: int, ask: Ask) -> list[Trial]:
    """Every candidate's trial; those that lasted longer were asked more rows."""
    scores: dict[int, list[float]] = {candidate.number: [] for candidate in tried}
    alive, done = list(tried), 0
    round_count = math.ceil(math.log2(len(tried))) if len(tried) > 1 else 0
    for _ in range(round_count):
        more = rows[done : done + max(1, budget // (len(alive) * round_count))]
        if not more:
            break
        for candidate in alive:
            scores[candidate.number] += await ask(candidate, more)
        done += len(more)
        alive.sort(key=lambda candidate: (-_mean(scores[candidate.number]), candidate.number))
        alive = alive[: math.ceil(len(alive) / 2)]
    ranks: Mapping[int, int] = {candidate.number: at for at, candidate in enumerate(alive)}
    found = [Trial(one, _mean(scores[one.number]), len(scores[one.number])) for one in tried]
    return sorted(found, key=lambda trial: ranks.get(trial.candidate.number, len(tried)))


async def _validation_score(candidate: Candidate, rows: Sequence[Row], seed: int, ask: Ask) -> ValidationScore:
    if not rows:
        return ValidationScore(0.0, None, 0)
    values = await ask(candidate, rows)
    data = clustered.mean_of(values, [row.group for row in rows])
    return ValidationScore(data.value(), compare.mean_interval(data, seed=seed), len(rows))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
