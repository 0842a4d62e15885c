"""The suites of one evaluation, in order: each is asked, measured, and leaves its rows and answers as a blob."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from luthierd.evaluator.answer_rows import to_jsonl, write_rows
from luthierd.evaluator.arms import ArmPlan
from luthierd.evaluator.difficult_cases import read_cases
from luthierd.evaluator.difficult_suite import ALL, DifficultSuite, rows_of
from luthierd.evaluator.domain import Arm, EvaluationConfig, EvaluationInputs, Figures, Results, Row, SuiteResult
from luthierd.evaluator.scoring import PAIRS, Scoring
from luthierd.evaluator.suites import Answers, SuiteAsker, SuiteFindings, merged
from luthierd.storage.blobs import Blob

# Builds what the arms show beside rows that are not the holdout's. Holds the CPU.
Planner = Callable[[Sequence[Row]], ArmPlan]


class Blobs(Protocol):
    """The blob store. Methods block."""

    def read_bytes(self, sha256: str) -> bytes: ...

    def put_bytes(self, data: bytes) -> Blob: ...


@dataclass(frozen=True)
class SuiteRun:
    """What the suites of an evaluation need. `plan` must show the holdout's arms."""

    config: EvaluationConfig
    inputs: EvaluationInputs
    asker: SuiteAsker
    blobs: Blobs
    scoring: Scoring
    plan: Planner

    async def run(self) -> list[SuiteFindings]:
        """One entry for each suite that the configuration asks for."""
        findings = []
        if self.inputs.difficult_sha256:
            findings.append(await self._difficult())
        return findings

    async def _difficult(self) -> SuiteFindings:
        cases = read_cases(await asyncio.to_thread(self.blobs.read_bytes, self.inputs.difficult_sha256))
        rows = rows_of(cases)
        plan = await asyncio.to_thread(self.plan, rows)
        answers = await self.asker.ask(self.config.arms, rows, plan)
        suite = DifficultSuite(cases, self.scoring, PAIRS, self.config.seed, self.config.resample_count)
        slices = await suite.slices(answers)
        # The behaviour over all cases stands beside the holdout's figures, so that a gate needs no slice for it.
        return SuiteFindings(
            SuiteResult(ALL, self.inputs.difficult_sha256, len(cases), await self._keep(rows, answers)),
            suite.behaviour(cases, answers),
            slices,
        )

    async def _keep(self, rows: Sequence[Row], answers: Answers) -> str:
        """The digest of the blob with the rows and what was said to them."""
        data = to_jsonl(write_rows(rows, answers, []))
        return (await asyncio.to_thread(self.blobs.put_bytes, data)).sha256


def with_suites(results: Results, findings: Sequence[SuiteFindings]) -> Results:
    """The results with the suites' figures beside the holdout's."""
    slices = dict(results.slices)
    for found in findings:
        slices |= found.slices
    figures: Figures = merged([results.figures, *(found.figures for found in findings)])
    return replace(results, figures=figures, slices=slices, suites=[found.result for found in findings])


def suite_arms(arms: Sequence[Arm]) -> list[Arm]:
    """The arms that are asked what has nothing to do with the task: each set of weights once, without examples."""
    return [arm for arm in arms if arm is Arm.BASE or (arm.uses_adapter and not arm.uses_retrieval)]
