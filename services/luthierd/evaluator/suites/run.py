"""The suites of one evaluation, in order: each is asked, measured, and leaves its rows and answers as a blob."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from luthierd.errors import InternalError
from luthierd.evaluator.dataset.parsing import has_labels
from luthierd.evaluator.dataset.rows import select_rows, to_jsonl, write_rows
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs, Results
from luthierd.evaluator.domain.rows import Row
from luthierd.evaluator.domain.scores import SuiteResult
from luthierd.evaluator.domain.suites import CounterfactualConfig, LmEvalConfig
from luthierd.evaluator.models.arms import ArmPlan
from luthierd.evaluator.scorers.metric_table import PAIRS
from luthierd.evaluator.scorers.registry import spec_of
from luthierd.evaluator.scorers.scoring import Scoring
from luthierd.evaluator.suites import counterfactual_suite, lm_suite
from luthierd.evaluator.suites import retention_suite as retention_suite
from luthierd.evaluator.suites.challenge_cases import read_cases
from luthierd.evaluator.suites.challenge_suite import ALL, ChallengeSuite, rows_of
from luthierd.evaluator.suites.counterfactual_suite import CounterfactualSuite
from luthierd.evaluator.suites.counterfactual_terms import LISTS, make_pairs
from luthierd.evaluator.suites.lm_suite import LmSuite
from luthierd.evaluator.suites.retention_items import without_overlap
from luthierd.evaluator.suites.retention_suite import RetentionSuite, SuiteParts, items_of
from luthierd.evaluator.suites.suite import Answers, PlainPlan, SuiteFindings, SuiteGenerator, merged
from luthierd.storage.blobs import Blob

# Builds what the arms show beside rows that are not the holdout's. Holds the CPU.
Planner = Callable[[Sequence[Row]], ArmPlan]


class Blobs(Protocol):
    """The blob store. Methods block."""

    def read_bytes(self, sha256: str) -> bytes: ...

    def put_bytes(self, data: bytes) -> Blob: ...


@dataclass(frozen=True)
class SuiteRun:
    """What the suites of an evaluation need. `rows` are the holdout's, `train` those that may be shown; `parts` is
    needed by the retention suite and the tasks of lm-eval.
    """

    config: EvaluationConfig
    inputs: EvaluationInputs
    generator: SuiteGenerator
    blobs: Blobs
    scoring: Scoring
    plan: Planner
    rows: Sequence[Row]
    train: Sequence[Row]
    parts: SuiteParts | None = None

    async def run(self) -> list[SuiteFindings]:
        """One entry for each suite that the configuration asks for."""
        findings = []
        if self.inputs.challenge_sha256:
            findings.append(await self._challenge())
        if self.config.suites.retention_item_count is not None:
            findings.append(await self._general(self.config.suites.retention_item_count))
        if self.config.suites.counterfactual is not None:
            findings.append(await self._counterfactual(self.config.suites.counterfactual))
        if self.config.suites.lm_eval is not None:
            findings.append(await self._lm_eval(self.config.suites.lm_eval))
        return findings

    async def _challenge(self) -> SuiteFindings:
        cases = read_cases(await asyncio.to_thread(self.blobs.read_bytes, self.inputs.challenge_sha256))
        rows = rows_of(cases)
        plan = await asyncio.to_thread(self.plan, rows)
        answers = await self.generator.generate(self.config.arms, rows, plan)
        # The further questions of probes are put to the holdout's rows only: no case has what their metrics read.
        scorers = [scorer for scorer in self.scoring.scorers if not spec_of(scorer.metric).needs.asks]
        scoring = replace(self.scoring, scorers=scorers)
        suite = ChallengeSuite(cases, scoring, PAIRS, self.config.seed, self.config.resample_count)
        slices = await suite.slices(answers)
        # The behaviour over all cases stands beside the holdout's figures, so that a gate needs no slice for it.
        return SuiteFindings(
            SuiteResult(ALL, self.inputs.challenge_sha256, len(cases), await self._keep(rows, answers)),
            suite.behaviour(cases, answers),
            slices,
        )

    async def _general(self, item_count: int) -> SuiteFindings:
        base, parts = self.inputs.base_model_sha256, self._parts()
        kept = await items_of(base, item_count, catalogue=parts.catalogue, blobs=self.blobs)
        own = [f"{row.question}\n{row.reference}" for row in self.train]
        texts = await asyncio.to_thread(without_overlap, kept.items.texts, own)
        suite = RetentionSuite(replace(kept.items, texts=tuple(texts)), self.config.seed, self.config.resample_count)
        answers = await suite.generate(self.generator, parts.likelihoods, suite_arms(self.config.arms))
        measured = await asyncio.to_thread(suite.measure, answers)
        items, asked = suite.items, await self._keep(suite.rows, answers)
        count = len(items.texts) + len(items.choices) + len(items.instructions)
        left_out = len(kept.items.texts) - len(texts)
        result = SuiteResult(retention_suite.NAME, kept.sha256, count, asked, left_out, measured.bits_per_byte)
        return SuiteFindings(result, measured.figures)

    async def _counterfactual(self, config: CounterfactualConfig) -> SuiteFindings:
        lists = {name: LISTS[name] for name in config.term_lists}
        if config.term_pairs:
            lists["custom"] = config.term_pairs
        rows = select_rows(self.rows, config.row_limit, seed=self.config.seed)
        pairs = await asyncio.to_thread(make_pairs, rows, lists, seed=self.config.seed)
        task = self.scoring.task
        labelled = has_labels(self.rows, task)
        suite = CounterfactualSuite(pairs, task, labelled, self.config.seed, self.config.resample_count)
        answers = await self.generator.generate(suite_arms(self.config.arms), suite.rows, PlainPlan())
        blob = await asyncio.to_thread(self.blobs.put_bytes, suite.serialise())
        asked = await self._keep(suite.rows, answers)
        rates = await asyncio.to_thread(suite.flip_rates, answers)
        result = SuiteResult(counterfactual_suite.NAME, blob.sha256, len(pairs), asked, 0, rates)
        return SuiteFindings(result, await asyncio.to_thread(suite.figures, answers))

    async def _lm_eval(self, config: LmEvalConfig) -> SuiteFindings:
        parts = self._parts()
        tasks = await asyncio.to_thread(parts.lm_tasks, config)
        suite = LmSuite(tasks, self.config.seed, self.config.resample_count)
        answers = await suite.generate(self.generator, parts.likelihoods, suite_arms(self.config.arms))
        blob = await asyncio.to_thread(self.blobs.put_bytes, suite.serialise())
        result = SuiteResult(lm_suite.NAME, blob.sha256, len(suite.items), await self._keep(suite.rows, answers))
        measured = await asyncio.to_thread(suite.measure, answers)
        return SuiteFindings(result, measured.figures, measured.slices)

    def _parts(self) -> SuiteParts:
        if self.parts is None:
            raise InternalError("this suite needs a likelihood of texts, and none was given to this run")
        return self.parts

    async def _keep(self, rows: Sequence[Row], answers: Answers) -> str:
        """The digest of the blob with the rows and what was said to them."""
        data = to_jsonl(write_rows(rows, answers, []))
        return (await asyncio.to_thread(self.blobs.put_bytes, data)).sha256


def with_suites(results: Results, findings: Sequence[SuiteFindings]) -> Results:
    """The results with the suites' figures beside the holdout's."""
    slices = dict(results.slices)
    for found in findings:
        slices |= found.slices
    overall = merged([results.overall, *(found.overall for found in findings)])
    return replace(results, overall=overall, slices=slices, suites=[found.result for found in findings])


def suite_arms(arms: Sequence[Arm]) -> list[Arm]:
    """The arms that are asked what has nothing to do with the task: each set of weights once, without examples."""
    return [arm for arm in arms if arm is Arm.BASE or (arm.uses_adapter and not arm.uses_retrieval)]
