"""Runs the suites of one evaluation in order: each is generated, scored, and leaves its rows and answers as a blob."""

from __future__ import annotations

import asyncio
import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from luthierd.errors import FieldViolation, InternalError
from luthierd.evaluator import suites
from luthierd.evaluator.dataset.rows import write_rows
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import Results
from luthierd.evaluator.domain.rows import Answer, Row
from luthierd.evaluator.domain.scores import SuiteResult
from luthierd.evaluator.domain.suites import SuiteSpec
from luthierd.evaluator.models.arms import ArmPlan, Query, in_turns
from luthierd.evaluator.models.generate import ChatModel, Generator, SampleStore
from luthierd.evaluator.suites.suite import SCORED, Answers, Suite, SuiteContext, SuiteScores, merged
from luthierd.jsonl import write_lines


@functools.cache
def _load_suites() -> None:
    for module in pkgutil.iter_modules(suites.__path__, f"{suites.__name__}."):
        importlib.import_module(module.name)


def known_suites() -> Mapping[str, type[Suite]]:
    """Every suite by name, in the order of running; the modules of this package are imported to register theirs."""
    _load_suites()
    return {suite.name: suite for suite in sorted(Suite.registered.values(), key=lambda one: (one.order, one.name))}


def spec_violations(specs: Sequence[SuiteSpec], *, field: str) -> list[FieldViolation]:
    """What is wrong with the entries of `suites`."""
    found = []
    known = {name: suite for name, suite in known_suites().items() if not suite.config_field}
    for index, spec in enumerate(specs):
        where = f"{field}[{index}]"
        if spec.name in known:
            problem = known[spec.name].problem(spec.settings)
            found += [FieldViolation(f"{where}.settings", problem)] if problem else []
        else:
            text = f"{spec.name!r} is not a suite; choose one of {', '.join(known) or 'none'}"
            found.append(FieldViolation(f"{where}.name", text))
        if spec.name in (other.name for other in specs[:index]):
            found.append(FieldViolation(f"{where}.name", "a suite is named twice"))
    return found


class PlainPlan(ArmPlan):
    """Every arm gets the row as it is: no examples, no instruction."""

    def query(self, arm: Arm, row: Row) -> Query:
        return Query(arm=arm, row=row, messages=row.prompt)


@dataclass(frozen=True)
class SuiteFindings:
    """What a suite found; `result` names the blob with its rows and answers."""

    result: SuiteResult
    scores: SuiteScores


@dataclass(frozen=True)
class SuiteRun:
    """The suites of an evaluation."""

    context: SuiteContext
    generator: Generator
    samples: SampleStore

    async def run(self) -> list[SuiteFindings]:
        """One entry for each suite that the configuration asks for."""
        wanted = [await suite.of(self.context) for suite in known_suites().values()]
        return [await self._run(suite) for suite in wanted if suite is not None]

    async def _run(self, suite: Suite) -> SuiteFindings:
        arms: Sequence[Arm] = suite_arms(self.context.config.arms)
        plan: ArmPlan = PlainPlan()
        if suite.runs_every_arm:
            arms = self.context.config.arms
            plan = await asyncio.to_thread(self.context.plan, suite.rows)
        likelihoods = self.context.parts.likelihoods if self.context.parts else None
        answers = await generate_answers(
            suite, arms, plan, generator=self.generator, samples=self.samples, likelihoods=likelihoods
        )
        rows = await self.context.put(write_lines(write_rows(suite.rows, answers, [])))
        scores = await suite.score(answers)
        result = SuiteResult(
            suite=suite.name,
            sha256=suite.sha256,
            item_count=suite.item_count,
            answers_sha256=rows,
            left_out_count=suite.left_out_count,
            figures=scores.figures,
        )
        return SuiteFindings(result, scores)


async def generate_answers(
    suite: Suite,
    arms: Sequence[Arm],
    plan: ArmPlan,
    *,
    generator: Generator,
    samples: SampleStore,
    likelihoods: ChatModel | None,
) -> Answers:
    """The answers to the suite's rows, by arm and row id. Rows with a text to score go to `likelihoods`."""
    scored = [row for row in suite.rows if any(turn.role == SCORED for turn in row.prompt)]
    ids = {row.id for row in scored}
    await _generate(generator, arms, [row for row in suite.rows if row.id not in ids], plan)
    if scored:
        if likelihoods is None:
            raise InternalError(f"the suite {suite.name} scores texts, and no likelihoods were given to this run")
        await _generate(replace(generator, chat_model=likelihoods), arms, scored, plan)
    wanted = {row.id for row in suite.rows}
    found: dict[Arm, dict[str, Answer]] = {arm: {} for arm in arms}
    for answer in await samples.answers():
        if answer.arm in found and answer.row_id in wanted:
            found[answer.arm][answer.row_id] = answer
    return found


async def _generate(generator: Generator, arms: Sequence[Arm], rows: Sequence[Row], plan: ArmPlan) -> None:
    async def progress(done: int, total: int, arm: Arm | None) -> None:
        """Progress is reported for the holdout only."""

    order = in_turns(arms, rows, window=generator.concurrency)
    await generator.generate_all([plan.query(arm, row) for arm, row in order], progress=progress)


def with_suites(results: Results, findings: Sequence[SuiteFindings]) -> Results:
    """The results with the suites' scores added to the holdout's."""
    slices = dict(results.slices)
    for found in findings:
        slices |= found.scores.slices
    overall = merged([results.overall, *(found.scores.overall for found in findings)])
    return replace(results, overall=overall, slices=slices, suites=[found.result for found in findings])


def suite_arms(arms: Sequence[Arm]) -> list[Arm]:
    """The arms for rows that have nothing to do with the task: each set of weights once, without examples."""
    return [arm for arm in arms if arm is Arm.BASE or (arm.uses_adapter and not arm.uses_retrieval)]
