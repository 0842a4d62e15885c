"""One evaluation from beginning to end, as the worker runs it: index, answer, score, report.

Arms take turns in one window, so that the engine is never idle and all of them meet the same machine. Everything before
and after the asking is computed again after a crash; the answers are not asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from luthierd.evaluator.dataset.leakage import Document, check_leakage, document_of, refuse_leakage
from luthierd.evaluator.dataset.parsing import task_of
from luthierd.evaluator.dataset.rows import parse_rows, select_rows, to_jsonl, write_rows
from luthierd.evaluator.decisions.holdout_ledger import SPLIT as HOLDOUT_SPLIT
from luthierd.evaluator.decisions.holdout_ledger import EvaluationAccesses, NoFinalSliceError, slices_of
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs, Progress, Results
from luthierd.evaluator.domain.holdout import HoldoutUse, LeakageReport
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Answer, Row, TaskSpec
from luthierd.evaluator.domain.scores import Scored
from luthierd.evaluator.graders.judge import Judge
from luthierd.evaluator.models.arms import ArmPlan, Query, fixed_shots, in_turns
from luthierd.evaluator.models.costs import TokenPrice, arm_costs
from luthierd.evaluator.models.generate import Generator, SampleStore
from luthierd.evaluator.models.multiple_choice import check_choices
from luthierd.evaluator.models.perturbations import paraphrases_of, perturbed_answers, perturbed_queries
from luthierd.evaluator.reports.report import ReportData, render_report
from luthierd.evaluator.retrieval.run import Blobs, Finder, IndexCatalogue, Retrieval, Retrieved
from luthierd.evaluator.run.prompt_run import stored_prompt
from luthierd.evaluator.run.sequential_rounds import SequentialAsked
from luthierd.evaluator.run.sequential_run import SequentialRun, score_sequential
from luthierd.evaluator.scorers.metric_details import judge_report
from luthierd.evaluator.scorers.registry import ScoringMaterial
from luthierd.evaluator.scorers.scorer import Scorer
from luthierd.evaluator.scorers.scoring import Scoring
from luthierd.evaluator.suites.retention_suite import SuiteParts
from luthierd.evaluator.suites.run import Planner, SuiteRun, with_suites
from luthierd.evaluator.suites.suite import SuiteFindings, SuiteGenerator


class Embedder(Protocol):
    """Turns texts into unit vectors, one row a text. Holds the CPU."""

    @property
    def digest(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True)
class Models:
    """What is slow to load, so it is loaded in a thread when it is needed. Both hold the CPU for seconds."""

    embedder: Callable[[], Embedder]
    scorers: Callable[[ScoringMaterial], Sequence[Scorer]]


@dataclass(frozen=True)
class Material:
    """The rows of an evaluation: those that are asked, those that may be shown, and how answers are read."""

    rows: Sequence[Row]
    train: Sequence[Row]
    task: TaskSpec
    leakage: LeakageReport
    final_row_count: int


@dataclass(frozen=True)
class Asked:
    """What was answered; `sequence` is None unless the evaluation was sequential."""

    answers: Mapping[Arm, Mapping[str, Answer]]
    sequence: SequentialAsked | None = None


@dataclass(frozen=True)
class EvaluationRun:
    """One evaluation. `report` hears of progress; it may raise to stop the run."""

    name: str
    tenant: str
    inputs: EvaluationInputs
    config: EvaluationConfig
    generator: Generator
    samples: SampleStore
    blobs: Blobs
    catalogue: IndexCatalogue
    models: Models
    versions: Callable[[], Mapping[str, str]]
    progress: Callable[[Progress], None]
    shot_characters: int
    accesses: EvaluationAccesses
    token_prices: Mapping[Arm, TokenPrice] = field(default_factory=dict)
    judge: Judge | None = None
    suite_parts: SuiteParts | None = None

    async def run(self) -> Results:
        """Runs to the end. Every step may be repeated after a crash."""
        material = await asyncio.to_thread(self._read)
        await self.accesses.check(self.name, self.inputs, self.config)
        total = len(material.rows) * len(self.config.arms)
        self._report("index", done=0, total=total)
        embedder, finder = None, None
        if any(arm.uses_retrieval for arm in self.config.arms):
            embedder = await asyncio.to_thread(self.models.embedder)
            retrieval = Retrieval(self.tenant, self.inputs, self.config, self.blobs, self.catalogue)
            finder = await retrieval.finder(material.rows, material.train, material.task, embedder)
        plan = await asyncio.to_thread(self._plan, material, finder)
        if self.config.sequential is None:
            asked = Asked(await self._ask(material, plan))
            scoring = await self._scoring(material, embedder, finder, await self._probe(material, plan))
        else:
            scoring = await self._scoring(material, embedder, finder, {})
            asked = await self._ask_sequentially(material, plan, scoring)
        self._report("score", done=total, total=total)
        use = await self.accesses.enter(
            self.name,
            self.inputs,
            self.config,
            row_count=len(material.rows),
            final_row_count=material.final_row_count,
        )
        if asked.sequence is None:
            scored = await scoring.score(material.rows, asked.answers)
        else:
            scored = await score_sequential(scoring, asked.sequence, asked.answers)
        findings = await self._suites(material, scoring, lambda rows: self._plan(replace(material, rows=rows), finder))
        if self.judge is not None:  # it judged answers to challenge cases meanwhile
            judged = judge_report(self.judge, scoring.scorers)
            scored = replace(scored, metric_details=replace(scored.metric_details, judge=judged))
        self._report("report", done=total, total=total)
        return await asyncio.to_thread(self._finish, material, asked, scored, use, finder, findings)

    async def _scoring(
        self,
        material: Material,
        embedder: Embedder | None,
        finder: Finder | None,
        perturbations: Mapping[tuple[Arm, str], Mapping[str, str]],
    ) -> Scoring:
        embedder = embedder if embedder is not None else await asyncio.to_thread(self.models.embedder)
        documents = finder.texts.documents if finder else ()
        ingredients = ScoringMaterial(embedder, self.config, material.task, material.train, self.judge, documents)
        return Scoring(
            material.task,
            await asyncio.to_thread(self.models.scorers, ingredients),
            seed=self.config.seed,
            n_resamples=self.config.resample_count,
            passages=ingredients.passages.by_id,
            perturbations=perturbations,
            judge=self.judge,
        )

    async def _suites(self, material: Material, scoring: Scoring, plan: Planner) -> Sequence[SuiteFindings]:
        """What the configuration asks for beyond the holdout."""
        suites = SuiteRun(
            self.config,
            self.inputs,
            SuiteGenerator(self.generator, self.samples),
            self.blobs,
            scoring,
            plan,
            material.rows,
            material.train,
            self.suite_parts,
        )
        return await suites.run()

    def _read(self) -> Material:
        train = parse_rows(self.blobs.read_bytes(self.inputs.train_sha256), split="train")
        everything = parse_rows(self.blobs.read_bytes(self.inputs.rows_sha256), split=self.config.split)
        known: dict[str, Iterable[Document]] = {"train": map(document_of, train)}
        learned = {self.inputs.trained_sha256, *self.inputs.other_trained_sha256s} - {"", self.inputs.train_sha256}
        known["trained"] = (
            document_of(row)
            for digest in sorted(learned)
            for row in parse_rows(self.blobs.read_bytes(digest), split="train")
        )
        known["index"] = (
            document_of(row)
            for digest in self.inputs.passage_sha256s
            for row in parse_rows(self.blobs.read_bytes(digest), split="documents")
        )
        leakage = check_leakage(everything, known)
        kept_back: Sequence[Row] = ()
        if self.config.split == HOLDOUT_SPLIT:
            group_count = len({row.group for row in everything})
            everything, kept_back = slices_of(everything)
            if self.config.final:
                if not kept_back:
                    raise NoFinalSliceError(group_count)
                everything = list(kept_back)
        rows = select_rows(everything, self.config.row_limit, seed=self.config.seed)
        fields = {"text_field": self.config.text_field or None, "label_field": self.config.label_field or None}
        task = task_of(rows, self.config.task, **fields)
        if task.kind.is_chosen:
            check_choices(rows, task)
        return Material(rows, train, task, leakage, len(kept_back))

    def _plan(self, material: Material, finder: Finder | None) -> ArmPlan:
        retrieved = finder.find(material.rows) if finder else Retrieved()
        instruction = self.config.instruction
        fixed = fixed_shots(material.train, self.config.shot_count, seed=self.config.seed)
        if self.inputs.prompt_sha256:
            prompt = stored_prompt(self.blobs.read_bytes(self.inputs.prompt_sha256))
            instruction, fixed = prompt.instruction, prompt.rows()
            refuse_leakage(fixed, material.rows)
        return ArmPlan(
            instruction=instruction,
            fixed=fixed,
            retrieved=retrieved.examples,
            passages=retrieved.passages,
            shot_characters=self.shot_characters,
        )

    def _query(self, plan: ArmPlan, arm: Arm, row: Row, task: TaskSpec) -> Query:
        query = plan.query(arm, row)
        # An endpoint says nothing of how likely a given text is: it answers in its own words.
        chosen = task.kind.is_chosen and arm is not Arm.ENDPOINT
        return replace(query, choices=row.choices) if chosen else query

    async def _probe(self, material: Material, plan: ArmPlan) -> dict[tuple[Arm, str], dict[str, str]]:
        """The further questions of the metrics that need them; none by default."""
        if not any(metric.needs.asks for metric in self.config.metrics):
            return {}
        paraphrases: dict[str, str] = {}
        if self.judge is not None and Metric.CONSISTENCY_PARAPHRASES in self.config.metrics:
            paraphrases = await paraphrases_of(material.rows, self.judge)
        total = len(material.rows) * len(self.config.arms)

        async def progress(_: int, __: int, arm: Arm | None) -> None:
            self._report("answer", arm=arm, done=total, total=total)

        order = in_turns(self.config.arms, material.rows, window=self.generator.concurrency)
        queries = [plan.query(arm, row) for arm, row in order]
        await self.generator.generate_all(list(perturbed_queries(queries, self.config, paraphrases)), progress=progress)
        return perturbed_answers(await self.samples.answers())

    async def _ask(self, material: Material, plan: ArmPlan) -> dict[Arm, dict[str, Answer]]:

        async def progress(done: int, total: int, arm: Arm | None) -> None:
            self._report("answer", arm=arm, done=done, total=total)

        order = in_turns(self.config.arms, material.rows, window=self.generator.concurrency)
        queries = [self._query(plan, arm, row, material.task) for arm, row in order]
        await self.generator.generate_all(queries, progress=progress)
        wanted = {row.id for row in material.rows}
        by_arm: dict[Arm, dict[str, Answer]] = {arm: {} for arm in self.config.arms}
        for answer in await self.samples.answers():
            if answer.arm in by_arm and answer.row_id in wanted:
                by_arm[answer.arm][answer.row_id] = answer
        return by_arm

    async def _ask_sequentially(self, material: Material, plan: ArmPlan, scoring: Scoring) -> Asked:
        known = {(answer.arm, answer.row_id): answer for answer in await self.samples.answers()}
        before, total = 0, len(material.rows) * len(self.config.arms)

        async def ask(arms: Sequence[Arm], batch: Sequence[Row]) -> dict[Arm, dict[str, Answer]]:
            nonlocal before

            async def progress(done: int, _: int, arm: Arm | None) -> None:
                self._report("answer", arm=arm, done=before + done, total=total)

            order = in_turns(arms, batch, window=self.generator.concurrency)
            queries = [self._query(plan, arm, row, material.task) for arm, row in order]
            for answer in await self.generator.generate_all(queries, progress=progress, done=known.keys()):
                known[answer.arm, answer.row_id] = answer
            before += len(queries)
            return {arm: {row.id: known[arm, row.id] for row in batch} for arm in arms}

        run = SequentialRun(self.config, scoring, ask)
        sequence = await run.run(material.rows)
        return Asked(run.answers, sequence)

    def _finish(
        self,
        material: Material,
        asked: Asked,
        scored: Scored,
        use: HoldoutUse | None,
        finder: Finder | None,
        findings: Sequence[SuiteFindings],
    ) -> Results:
        answers = asked.answers
        costs = arm_costs(
            {arm: list(given.values()) for arm, given in answers.items()},
            machine_price_per_hour=self.config.machine_price_per_hour,
            token_prices=self.token_prices,
        )
        rows = write_rows(material.rows, answers, scored.rows)
        results = Results(
            overall=scored.overall,
            costs=costs,
            row_count=len(material.rows),
            group_count=len({row.group for row in material.rows}),
            task=material.task,
            index_sha256=finder.index_sha256 if finder else "",
            versions=dict(self.versions()),
            answers_sha256=self.blobs.put_bytes(to_jsonl(rows)).sha256,
            report_sha256="",
            metric_details=scored.metric_details,
            retrieval=finder.summary if finder else None,
            sequential_decisions=asked.sequence.decisions if asked.sequence else (),
            holdout_use=use,
            leakage=material.leakage,
            slices=scored.slices,
        )
        results = with_suites(results, findings)
        known = {row.id: row.reference for row in [*material.train, *(finder.texts.documents if finder else ())]}
        shown = {
            one: known[one] for row in rows for said in row["answers"] for one in said["shown_row_ids"] if one in known
        }
        html = render_report(ReportData(self.name, self.inputs, self.config, results, rows, scored.confusions, shown))
        return replace(results, report_sha256=self.blobs.put_bytes(html.encode()).sha256)

    def _report(self, phase: str, *, done: int, total: int, arm: Arm | None = None) -> None:
        self.progress(Progress(phase, arm, done, total))
