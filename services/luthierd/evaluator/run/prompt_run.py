"""One search for a prompt, as the worker runs it. Answers are kept as they arrive: none is asked again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthierd.codec import to_json
from luthierd.evaluator.dataset.leakage import refuse_leakage
from luthierd.evaluator.dataset.parsing import detect_task, has_labels, parse_answer
from luthierd.evaluator.dataset.rows import parse_rows
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import CHRF, EXACT_MATCH, JSON_VALID, LABEL_ACCURACY, ROUGE_L, Metric
from luthierd.evaluator.domain.rows import Answer, Message, Row, TaskSpec
from luthierd.evaluator.models.arms import ArmPlan
from luthierd.evaluator.models.generate import Generator, SampleStore
from luthierd.evaluator.run.prompt_search import Candidate, Found, PromptSearch, ValidationScore, find_prompt
from luthierd.evaluator.scorers.scorer import Sample, Scorer, score_all
from luthierd.storage.blobs import BlobStore

METRICS = (EXACT_MATCH, JSON_VALID, LABEL_ACCURACY, ROUGE_L, CHRF)
"""What a search can maximise: metrics that need no model."""


@dataclass(frozen=True, kw_only=True)
class PromptInputs:
    """Everything that a search reads, by name and digest. There is no holdout among it."""

    target: str
    target_sha256: str
    dataset_revision: str
    dataset_sha256: str
    train_sha256: str
    validation_sha256: str


@dataclass(frozen=True)
class PromptExample:
    """A training row as it is shown."""

    row_id: str
    question: str
    answer: str


@dataclass(frozen=True)
class PromptTrial:
    """What became of a candidate."""

    instruction: str
    example_row_ids: tuple[str, ...]
    mean: float
    row_count: int


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """What a search leaves. `sha256` is of the blob with instruction and examples."""

    sha256: str
    instruction: str
    examples: tuple[PromptExample, ...]
    metric: Metric
    score: ValidationScore
    default_score: ValidationScore
    trials: tuple[PromptTrial, ...]
    query_count: int


@dataclass(frozen=True)
class StoredPrompt:
    """The blob's content."""

    instruction: str
    examples: tuple[PromptExample, ...]

    def to_bytes(self) -> bytes:
        """The same prompt gives the same bytes."""
        return json.dumps(to_json(self), sort_keys=True, ensure_ascii=False).encode()

    def rows(self) -> list[Row]:
        """The examples as rows, for `arms.shot_turns`."""
        return [
            Row(
                id=one.row_id,
                group=one.row_id,
                label=None,
                prompt=(Message("user", one.question),),
                reference=one.answer,
            )
            for one in self.examples
        ]


@dataclass(frozen=True, kw_only=True)
class PromptRun:
    """One search. `report` hears the number of answers so far, and may raise to stop the run; `tell` hears a line for
    people about each candidate measured.
    """

    inputs: PromptInputs
    search: PromptSearch
    generator: Generator
    samples: SampleStore
    blobs: BlobStore
    scorers: Callable[[], Sequence[Scorer]]
    report: Callable[[int], None]
    tell: Callable[[str], None]
    shot_characters: int

    async def run(self) -> PromptResult:
        """Runs to the end. Every step may be repeated after a crash."""
        train = parse_rows(await self._read(self.inputs.train_sha256), split="train")
        validation = parse_rows(await self._read(self.inputs.validation_sha256), split="validation")
        refuse_leakage(train, validation)
        task = detect_task(validation)
        metric = self.search.metric or _metric_of(validation, task)
        scorers = await asyncio.to_thread(self.scorers)
        scorer = next(one for one in scorers if one.metric == metric)

        async def ask(candidate: Candidate, rows: Sequence[Row]) -> Sequence[float]:
            return await self._scores(candidate, rows, task, scorer)

        found = await find_prompt(train, validation, self.search, ask)
        return await self._stored(found, metric)

    async def _read(self, sha256: str) -> bytes:
        return await asyncio.to_thread(self.blobs.read_bytes, sha256)

    async def _scores(
        self, candidate: Candidate, rows: Sequence[Row], task: TaskSpec, scorer: Scorer
    ) -> Sequence[float]:
        plan = ArmPlan(candidate.instruction, candidate.examples, shot_characters=self.shot_characters)
        own = [replace(row, id=f"{candidate.number}:{row.id}") for row in rows]
        before = len(await self.samples.answers())

        async def progress(done: int, _: int, __: Arm | None) -> None:
            self.report(before + done)

        await self.generator.generate_all([plan.query(Arm.PROMPTED, row) for row in own], progress=progress)
        answers = {answer.row_id: answer for answer in await self.samples.answers()}
        samples = [_sample(row, answers.get(row.id), task) for row in own]
        await scorer.prepare(samples)
        values = [score.value or 0.0 for score in await score_all(scorer, samples)]
        if len(answers) > before:  # a worker that goes on after another does not tell again what was measured before
            mean = sum(values) / len(values)
            self.tell(f"candidate {candidate.number}: {scorer.metric} {mean:.3f} on {len(rows)} rows more")
        return values

    async def _stored(self, found: Found, metric: Metric) -> PromptResult:
        examples = tuple(PromptExample(row.id, row.question, row.reference) for row in found.best.examples)
        data = StoredPrompt(found.best.instruction, examples).to_bytes()
        blob = await asyncio.to_thread(self.blobs.put_bytes, data)
        return PromptResult(
            sha256=blob.sha256,
            instruction=found.best.instruction,
            examples=examples,
            metric=metric,
            score=found.score,
            default_score=found.default_score,
            trials=tuple(
                PromptTrial(
                    trial.candidate.instruction,
                    tuple(row.id for row in trial.candidate.examples),
                    trial.mean,
                    trial.row_count,
                )
                for trial in found.trials
            ),
            query_count=len(await self.samples.answers()),
        )


def _metric_of(rows: Sequence[Row], task: TaskSpec) -> Metric:
    return LABEL_ACCURACY if not task.is_json and has_labels(rows, task) else task.primary_metric


def _sample(row: Row, answer: Answer | None, task: TaskSpec) -> Sample:
    reference = parse_answer(row.reference, task)
    if answer is None or answer.error is not None:
        return Sample(
            row_id=row.id,
            reference=reference,
            answer=None,
            failure=answer.error.reason if answer and answer.error else "NOT_ASKED",
        )
    return Sample(row_id=row.id, reference=reference, answer=parse_answer(answer.text, task))


def stored_prompt(data: bytes) -> StoredPrompt:
    """What `StoredPrompt.to_bytes` wrote."""
    found: dict[str, Any] = json.loads(data)
    return StoredPrompt(found["instruction"], tuple(PromptExample(**one) for one in found["examples"]))
