"""Challenge cases as slices: `challenge` for all, `challenge:KIND` for each kind.

A slice has the task's metrics over its cases that expect an answer, and three metrics of behaviour: the share of cases
with the expected behaviour, and precision and recall of abstaining. A case without an answer abstains from nothing: it
lacks the expected behaviour and lowers recall.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from luthierd.evaluator.dataset.abstention import Behaviour, behaviour_of
from luthierd.evaluator.domain.arm import PAIRS, Arm
from luthierd.evaluator.domain.rows import Answer, Row
from luthierd.evaluator.domain.scores import Comparison, MetricResult, MetricResults, Scored
from luthierd.evaluator.scorers.registry import spec_of
from luthierd.evaluator.scorers.suite_metrics import ABSTENTION_PRECISION, ABSTENTION_RECALL, EXPECTED_BEHAVIOUR
from luthierd.evaluator.suites.challenge_cases import ChallengeCase, Kind, read_cases
from luthierd.evaluator.suites.suite import (
    ID_PREFIX,
    Answers,
    Suite,
    SuiteContext,
    SuiteScores,
    merged,
    paired_results,
    ratio_of,
)
from luthierd.statistics import compare, proportions
from luthierd.statistics.compare import PairedRows

ALL = "challenge"


class QualityScoring(Protocol):
    """The scoring of the holdout; see `scoring.Scoring`."""

    async def score(self, rows: Sequence[Row], answers: Answers) -> Scored: ...


def slice_of(kind: Kind) -> str:
    """The slice that a kind is reported as."""
    return f"{ALL}:{kind}"


def rows_of(cases: Sequence[ChallengeCase]) -> list[Row]:
    """The cases as rows that arms can answer."""
    return [
        Row(
            id=f"{ID_PREFIX}{ALL}/{case.case_id}",
            group=case.group or case.case_id,
            label=None,
            prompt=case.turns,
            reference=case.reference,
        )
        for case in cases
    ]


@dataclass(frozen=True, kw_only=True)
class ChallengeSuite(Suite):
    """Scores answers to challenge cases. `pairs`: the (arm, reference) whose differences are reported."""

    name = ALL
    config_field = "challenge_set"
    order = 0
    runs_every_arm = True

    cases: Sequence[ChallengeCase]
    scoring: QualityScoring
    pairs: Sequence[tuple[Arm, Arm]] = PAIRS
    seed: int
    n_resamples: int
    sha256: str = ""

    @classmethod
    async def of(cls, context: SuiteContext) -> ChallengeSuite | None:
        sha256, config = context.inputs.challenge_sha256, context.config
        if not sha256:
            return None
        cases = read_cases(await asyncio.to_thread(context.blobs.read_bytes, sha256))
        # Perturbations are made of the holdout's rows only: no case has what their metrics read.
        scorers = [scorer for scorer in context.scoring.scorers if not spec_of(scorer.metric).needs.asks]
        scoring = replace(context.scoring, scorers=scorers)
        return cls(cases=cases, scoring=scoring, seed=config.seed, n_resamples=config.resample_count, sha256=sha256)

    @property
    def rows(self) -> list[Row]:
        return rows_of(self.cases)

    @property
    def item_count(self) -> int:
        return len(self.cases)

    async def score(self, answers: Answers) -> SuiteScores:
        """The behaviour over all cases is added to the holdout's results, so that a gate needs no slice for it."""
        slices = await self.slices(answers)
        return SuiteScores(self.behaviour(self.cases, answers), slices)

    async def slices(self, answers: Answers) -> dict[str, MetricResults]:
        """The results of each slice that has cases."""
        members = {ALL: list(self.cases)}
        for kind in Kind:
            members[slice_of(kind)] = [case for case in self.cases if case.kind is kind]
        return {name: await self._slice(cases, answers) for name, cases in members.items() if cases}

    async def _slice(self, cases: Sequence[ChallengeCase], answers: Answers) -> MetricResults:
        answerable = rows_of([case for case in cases if case.expected is Behaviour.ANSWER])
        parts = [self.behaviour(cases, answers)]
        if answerable:
            wanted = {row.id for row in answerable}
            given = {arm: {id_: a for id_, a in by.items() if id_ in wanted} for arm, by in answers.items()}
            parts.append((await self.scoring.score(answerable, given)).overall)
        return merged(parts)

    def behaviour(self, cases: Sequence[ChallengeCase], answers: Answers) -> MetricResults:
        """Expected behaviour, abstention precision and recall of each arm, and their paired differences."""
        rows = rows_of(cases)
        seen = {arm: [_behaviour(given.get(row.id)) for row in rows] for arm, given in answers.items()}
        groups = [row.group for row in rows]
        everywhere = PairedRows(groups, self.seed, self.n_resamples)
        as_expected = {
            (EXPECTED_BEHAVIOUR, arm): [_equal(b, c.expected) for b, c in zip(said, cases, strict=True)]
            for arm, said in seen.items()
        }
        parts = [paired_results(as_expected, everywhere, self.pairs)]
        due = [index for index, case in enumerate(cases) if case.expected.is_abstention]
        if due:
            recalled = {
                (ABSTENTION_RECALL, arm): [_abstains(said[index]) for index in due] for arm, said in seen.items()
            }
            parts.append(paired_results(recalled, everywhere.part(due), self.pairs))
        if len(due) < len(cases):
            parts.append(self._precision(cases, seen, everywhere))
        return merged(parts)

    def _precision(
        self, cases: Sequence[ChallengeCase], seen: Mapping[Arm, Sequence[Behaviour | None]], over: PairedRows
    ) -> MetricResults:
        """Of the abstentions of an arm the share that was due. An arm that never abstains has none."""
        metrics: list[MetricResult] = []
        ratios = {}
        for arm, said in seen.items():
            abstained = [_abstains(one) or 0.0 for one in said]
            right = [a * case.expected.is_abstention for a, case in zip(abstained, cases, strict=True)]
            chosen = [index for index, value in enumerate(abstained) if value]
            if not chosen:
                continue
            ratios[arm] = ratio_of(right, abstained, over.groups)
            interval = proportions.proportion_interval([right[i] for i in chosen], [over.groups[i] for i in chosen])
            answered = sum(one is not None for one in said)
            metrics.append(
                MetricResult(
                    arm=arm,
                    metric=ABSTENTION_PRECISION,
                    value=ratios[arm].value(),
                    interval=interval,
                    row_count=len(cases),
                    scored_count=answered,
                )
            )
        comparisons = [
            Comparison(
                metric=ABSTENTION_PRECISION,
                arm=arm,
                reference=reference,
                **vars(compare.tested(over.estimate_of(ratios[arm], ratios[reference]))),
            )
            for arm, reference in self.pairs
            if arm in ratios and reference in ratios
        ]
        return MetricResults(metrics, comparisons)


def _behaviour(answer: Answer | None) -> Behaviour | None:
    return None if answer is None or answer.error is not None else behaviour_of(answer.text)


def _equal(found: Behaviour | None, expected: Behaviour) -> float | None:
    return None if found is None else float(found is expected)


def _abstains(found: Behaviour | None) -> float | None:
    return None if found is None else float(found.is_abstention)
