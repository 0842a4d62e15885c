"""One evaluation from beginning to end, as the worker runs it: index, answer, score, report.

Everything before and after the answers is computed again after a crash; no answer is generated twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from luthierd.evaluator.dataset.leakage import Document, check_leakage, document_of, refuse_leakage
from luthierd.evaluator.dataset.parsing import task_of
from luthierd.evaluator.dataset.rows import parse_rows, select_rows, write_rows
from luthierd.evaluator.decisions.holdout_ledger import SPLIT as HOLDOUT_SPLIT
from luthierd.evaluator.decisions.holdout_ledger import EvaluationAccesses, NoFinalSliceError, slices_of
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs, Progress, Results
from luthierd.evaluator.domain.holdout import LeakageReport
from luthierd.evaluator.domain.rows import Answer, Row, TaskSpec
from luthierd.evaluator.domain.scores import Scored
from luthierd.evaluator.graders.judge import Judge
from luthierd.evaluator.models.arms import ArmPlan, Query, fixed_shots, in_turns
from luthierd.evaluator.models.costs import TokenPrice, arm_costs
from luthierd.evaluator.models.generate import Generator, SampleStore
from luthierd.evaluator.models.multiple_choice import check_choices
from luthierd.evaluator.models.perturbations import perturbed_answers
from luthierd.evaluator.reports.report import ReportData, render_report
from luthierd.evaluator.retrieval.run import Finder, IndexCatalogue, Retrieval, Retrieved
from luthierd.evaluator.run.prompt_run import stored_prompt
from luthierd.evaluator.run.sequential import Rounds, SequentialRun, score_sequential
from luthierd.evaluator.scorers.metric_details import judge_report
from luthierd.evaluator.scorers.scorer import Scorer, ScoringMaterial
from luthierd.evaluator.scorers.scoring import Scoring
from luthierd.evaluator.suites.run import SuiteFindings, SuiteRun, with_suites
from luthierd.evaluator.suites.suite import SuiteContext, SuiteParts
from luthierd.jsonl import write_lines
from luthierd.storage.blob_errors import about
from luthierd.storage.blobs import BlobStore


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
class Generated:
    """The answers by arm and row id; `sequence` is None unless the evaluation is sequential."""

    answers: Mapping[Arm, Mapping[str, Answer]]
    sequence: Rounds | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """One evaluation. `progress` may raise to stop the run."""

    name: str
    tenant: str
    inputs: EvaluationInputs
    config: EvaluationConfig
    generator: Generator
    samples: SampleStore
    blobs: BlobStore
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
        embedder = await asyncio.to_thread(self.models.embedder)
        finder = await self._finder(material, embedder)
        plan = await asyncio.to_thread(self._plan, material, finder)
        scoring = await self._scoring(material, embedder, finder)
        if self.config.sequential is None:
            generated = Generated(await self._generate(material, plan))
            scoring = replace(scoring, perturbations=await self._perturb(material, plan, scoring.scorers))
        else:
            generated = await self._generate_in_rounds(material, plan, scoring)

        self._report("score", done=total, total=total)
        use = await self.accesses.enter(
            self.name,
            self.inputs,
            self.config,
            row_count=len(material.rows),
            final_row_count=material.final_row_count,
        )
        scored = await self._score(material, scoring, generated)
        findings = await self._suites(material, scoring, finder)
        if self.judge is not None:  # it has graded answers to challenge cases since
            report = judge_report(self.judge, scoring.scorers)
            scored = replace(scored, metric_details=replace(scored.metric_details, judge=report))

        self._report("report", done=total, total=total)
        results = self._results(material, generated, scored, finder)
        results = with_suites(replace(results, holdout_use=use), findings)
        return await asyncio.to_thread(lambda: self._written(results, material, generated, scored, finder))

    def _read(self) -> Material:
        """The rows to ask; LeakageError where the training rows or the documents know some of them."""
        with about(self.inputs.dataset_revision):
            train = parse_rows(self.blobs.read_bytes(self.inputs.train_sha256), split="train")
            everything = parse_rows(self.blobs.read_bytes(self.inputs.rows_sha256), split=self.config.split)
        learned = {self.inputs.trained_sha256, *self.inputs.other_trained_sha256s} - {"", self.inputs.train_sha256}
        known: dict[str, Iterable[Document]] = {
            "train": map(document_of, train),
            "trained": self._documents(sorted(learned), split="train"),
            "index": self._documents(self.inputs.passage_sha256s, split="documents"),
        }
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

    def _documents(self, sha256s: Iterable[str], *, split: str) -> Iterator[Document]:
        for sha256 in sha256s:
            yield from map(document_of, parse_rows(self.blobs.read_bytes(sha256), split=split))

    async def _finder(self, material: Material, embedder: Embedder) -> Finder | None:
        """The retriever of the arms that show something for each question; None without such an arm."""
        if not any(arm.uses_retrieval for arm in self.config.arms):
            return None
        retrieval = Retrieval(self.tenant, self.inputs, self.config, self.blobs, self.catalogue)
        return await retrieval.finder(material.rows, material.train, material.task, embedder)

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

    async def _scoring(self, material: Material, embedder: Embedder, finder: Finder | None) -> Scoring:
        ingredients = ScoringMaterial(
            embedder=embedder,
            config=self.config,
            task=material.task,
            train=material.train,
            judge=self.judge,
            documents=finder.texts.documents if finder else (),
        )
        return Scoring(
            task=material.task,
            scorers=await asyncio.to_thread(self.models.scorers, ingredients),
            seed=self.config.seed,
            n_resamples=self.config.resample_count,
            passages=ingredients.passages.by_id,
            judge=self.judge,
        )

    async def _generate(self, material: Material, plan: ArmPlan) -> dict[Arm, dict[str, Answer]]:
        """Every arm's answer to every row. Arms take turns in one window, so that the engine is never idle and all of
        them meet the same machine.
        """

        async def progress(done: int, total: int, arm: Arm | None) -> None:
            self._report("answer", arm=arm, done=done, total=total)

        await self.generator.generate_all(
            self._queries(plan, self.config.arms, material.rows, material.task), progress=progress
        )
        wanted = {row.id for row in material.rows}
        by_arm: dict[Arm, dict[str, Answer]] = {arm: {} for arm in self.config.arms}
        for answer in await self.samples.answers():
            if answer.arm in by_arm and answer.row_id in wanted:
                by_arm[answer.arm][answer.row_id] = answer
        return by_arm

    def _queries(self, plan: ArmPlan, arms: Sequence[Arm], rows: Sequence[Row], task: TaskSpec) -> list[Query]:
        queries = [plan.query(arm, row) for arm, row in in_turns(arms, rows, window=self.generator.concurrency)]
        if not task.kind.is_chosen:
            return queries
        # An endpoint says nothing of how likely a given text is: it answers in its own words.
        return [query if query.arm is Arm.ENDPOINT else replace(query, choices=query.row.choices) for query in queries]

    async def _perturb(
        self, material: Material, plan: ArmPlan, scorers: Sequence[Scorer]
    ) -> dict[tuple[Arm, str], dict[str, str]]:
        """Answers to the additional questions of the metrics that have some; none by default."""
        asking = [scorer for scorer in scorers if scorer.spec.needs.asks]
        if not asking:
            return {}
        total = len(material.rows) * len(self.config.arms)

        async def progress(_: int, __: int, arm: Arm | None) -> None:
            self._report("answer", arm=arm, done=total, total=total)

        order = in_turns(self.config.arms, material.rows, window=self.generator.concurrency)
        queries = [plan.query(arm, row) for arm, row in order]
        perturbed = [query for scorer in asking for query in await scorer.perturbed(queries)]
        await self.generator.generate_all(perturbed, progress=progress)
        return perturbed_answers(await self.samples.answers())

    async def _generate_in_rounds(self, material: Material, plan: ArmPlan, scoring: Scoring) -> Generated:
        """Asks until the differences that the configuration names are decided."""
        known = {(answer.arm, answer.row_id): answer for answer in await self.samples.answers()}
        before, total = 0, len(material.rows) * len(self.config.arms)

        async def ask(arms: Sequence[Arm], batch: Sequence[Row]) -> dict[Arm, dict[str, Answer]]:
            nonlocal before

            async def progress(done: int, _: int, arm: Arm | None) -> None:
                self._report("answer", arm=arm, done=before + done, total=total)

            queries = self._queries(plan, arms, batch, material.task)
            for answer in await self.generator.generate_all(queries, progress=progress, done=known.keys()):
                known[answer.arm, answer.row_id] = answer
            before += len(queries)
            return {arm: {row.id: known[arm, row.id] for row in batch} for arm in arms}

        run = SequentialRun(self.config, scoring, ask)
        sequence = await run.run(material.rows)
        return Generated(run.answers, sequence)

    async def _score(self, material: Material, scoring: Scoring, generated: Generated) -> Scored:
        if generated.sequence is None:
            return await scoring.score(material.rows, generated.answers)
        return await score_sequential(scoring, generated.sequence, generated.answers)

    async def _suites(self, material: Material, scoring: Scoring, finder: Finder | None) -> Sequence[SuiteFindings]:
        """What the configuration asks for beyond the holdout."""
        context = SuiteContext(
            config=self.config,
            inputs=self.inputs,
            blobs=self.blobs,
            scoring=scoring,
            plan=lambda rows: self._plan(replace(material, rows=rows), finder),
            rows=material.rows,
            train=material.train,
            parts=self.suite_parts,
        )
        return await SuiteRun(context, self.generator, self.samples).run()

    def _results(self, material: Material, generated: Generated, scored: Scored, finder: Finder | None) -> Results:
        costs = arm_costs(
            {arm: list(given.values()) for arm, given in generated.answers.items()},
            machine_price_per_hour=self.config.machine_price_per_hour,
            token_prices=self.token_prices,
        )
        return Results(
            overall=scored.overall,
            slices=scored.slices,
            metric_details=scored.metric_details,
            costs=costs,
            row_count=len(material.rows),
            group_count=len({row.group for row in material.rows}),
            task=material.task,
            index_sha256=finder.index_sha256 if finder else "",
            retrieval=finder.summary if finder else None,
            versions=dict(self.versions()),
            sequential_decisions=generated.sequence.decisions if generated.sequence else (),
            leakage=material.leakage,
            answers_sha256="",
            report_sha256="",
        )

    def _written(
        self, results: Results, material: Material, generated: Generated, scored: Scored, finder: Finder | None
    ) -> Results:
        """The results with the blobs of their rows and their report."""
        rows = write_rows(material.rows, generated.answers, scored.rows)
        results = replace(results, answers_sha256=self.blobs.put_bytes(write_lines(rows)).sha256)
        known = {row.id: row.reference for row in [*material.train, *(finder.texts.documents if finder else ())]}
        shown = {
            one: known[one] for row in rows for said in row["answers"] for one in said["shown_row_ids"] if one in known
        }
        report = ReportData(
            name=self.name,
            inputs=self.inputs,
            config=self.config,
            results=results,
            rows=rows,
            confusions=scored.confusions,
            shown=shown,
        )
        html = render_report(report)
        return replace(results, report_sha256=self.blobs.put_bytes(html.encode()).sha256)

    def _report(self, phase: str, *, done: int, total: int, arm: Arm | None = None) -> None:
        self.progress(Progress(phase, arm, done, total))
