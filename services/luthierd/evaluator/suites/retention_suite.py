"""Forgetting: how well base and adapter still do what has nothing to do with the task, item by item and paired.

`forgetting_likelihood` is 2 to the minus bits per byte of a text, the geometric mean of the probabilities of its bytes;
`forgetting_choice` counts a question as right if the right choice has the highest log-probability per byte (lm-eval's
acc_norm); `forgetting_instructions` counts kept instructions. 1 is the best of each.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Answer, Message, Row
from luthierd.evaluator.domain.scores import MetricResults, SuiteFigure
from luthierd.evaluator.domain.suites import LmEvalConfig
from luthierd.evaluator.models.generate import ChatModel
from luthierd.evaluator.scorers.suite_metrics import FORGETTING_CHOICE, FORGETTING_INSTRUCTIONS, FORGETTING_LIKELIHOOD
from luthierd.evaluator.suites.instruction_rules import InstructionItem, keeps_rule
from luthierd.evaluator.suites.lm_harness import LmTask
from luthierd.evaluator.suites.retention_items import ChoiceItem, RetentionItems, TextItem, build_items
from luthierd.evaluator.suites.suite import (
    ID_PREFIX,
    Answers,
    PlainPlan,
    SuiteGenerator,
    merged,
    paired_results,
    ratio_of,
)
from luthierd.statistics import clustered
from luthierd.statistics.compare import PairedRows
from luthierd.storage.blobs import Blob

NAME = "retention"
# Roles of a query that is scored, not answered: no chat has them.
SHOWN, SCORED = "shown", "scored"


class RetentionSuiteCatalogue(Protocol):
    """Which blob holds the suite of a base model."""

    async def find(self, base_model_sha256: str, item_count: int) -> str | None: ...

    async def add(self, base_model_sha256: str, item_count: int, *, blob_sha256: str) -> None: ...


class Blobs(Protocol):
    """The blob store. Methods block."""

    def read_bytes(self, sha256: str) -> bytes: ...

    def put_bytes(self, data: bytes) -> Blob: ...


@dataclass(frozen=True)
class KeptItems:
    """A suite, and the digest of the blob that holds it."""

    items: RetentionItems
    sha256: str


@dataclass(frozen=True)
class SuiteParts:
    """What suites need beyond what an evaluation has. `likelihoods` answers a query of the roles SHOWN and SCORED with
    the scored text's log-probability in nats; `lm_tasks` reads tasks of lm-eval and holds the CPU.
    """

    likelihoods: ChatModel
    catalogue: RetentionSuiteCatalogue
    lm_tasks: Callable[[LmEvalConfig], Sequence[LmTask]]


async def items_of(
    base_model_sha256: str, item_count: int, *, catalogue: RetentionSuiteCatalogue, blobs: Blobs
) -> KeptItems:
    """The suite of a base model: the one that was made first, whatever Python made it."""
    sha256 = await catalogue.find(base_model_sha256, item_count)
    if sha256 is None:
        built = await asyncio.to_thread(build_items, base_model_sha256, item_count)
        blob = await asyncio.to_thread(blobs.put_bytes, built.serialise())
        await catalogue.add(base_model_sha256, item_count, blob_sha256=blob.sha256)
        sha256 = await catalogue.find(base_model_sha256, item_count) or blob.sha256
    return KeptItems(RetentionItems.deserialise(await asyncio.to_thread(blobs.read_bytes, sha256)), sha256)


@dataclass(frozen=True)
class GeneralFigures:
    """The metrics with their paired differences, and bits per byte of each arm."""

    figures: MetricResults
    bits_per_byte: Sequence[SuiteFigure]


@dataclass(frozen=True)
class RetentionSuite:
    """Asks and measures the items. `items.texts` must be without those of the tenant's own."""

    items: RetentionItems
    seed: int
    n_resamples: int

    @property
    def rows(self) -> list[Row]:
        """Everything that is asked, in order: scored texts, scored choices, instructions."""
        found = [_text_row(item) for item in self.items.texts]
        for item in self.items.choices:
            found += _choice_rows(item)
        return found + [_instruction_row(item) for item in self.items.instructions]

    async def generate(self, generator: SuiteGenerator, likelihoods: ChatModel, arms: Sequence[Arm]) -> Answers:
        """The answers of each arm to each row; those to scored rows are log-probabilities."""
        answered = {_instruction_row(item).id for item in self.items.instructions}
        scoring = SuiteGenerator(replace(generator.generator, chat_model=likelihoods), generator.samples)
        asked = await generator.generate(arms, [row for row in self.rows if row.id in answered], PlainPlan())
        scored = await scoring.generate(arms, [row for row in self.rows if row.id not in answered], PlainPlan())
        return {arm: {**asked[arm], **scored[arm]} for arm in arms}

    def measure(self, answers: Answers) -> GeneralFigures:
        """The three metrics of each arm with their paired differences, and bits per byte."""
        parts = []
        for metric, groups, values in (self._likelihood(answers), self._choice(answers), self._instructions(answers)):
            if groups:
                scores = {(metric, arm): found for arm, found in values.items()}
                parts.append(paired_results(scores, PairedRows(groups, self.seed, self.n_resamples)))
        bits = [figure for arm, given in answers.items() if (figure := self._bits_per_byte(arm, given))]
        return GeneralFigures(merged(parts), bits)

    def _likelihood(self, answers: Answers) -> _Part:
        values = {
            arm: [_byte_probability(_nats(given, _text_row(item)), item.predicted) for item in self.items.texts]
            for arm, given in answers.items()
        }
        return _Part(FORGETTING_LIKELIHOOD, [item.group for item in self.items.texts], values)

    def _choice(self, answers: Answers) -> _Part:
        values = {arm: [_is_right(given, item) for item in self.items.choices] for arm, given in answers.items()}
        return _Part(FORGETTING_CHOICE, [item.item_id for item in self.items.choices], values)

    def _instructions(self, answers: Answers) -> _Part:
        values = {
            arm: [_is_kept(given.get(_instruction_row(item).id), item) for item in self.items.instructions]
            for arm, given in answers.items()
        }
        return _Part(FORGETTING_INSTRUCTIONS, [item.item_id for item in self.items.instructions], values)

    def _bits_per_byte(self, arm: Arm, given: Mapping[str, Answer]) -> SuiteFigure | None:
        """Over the texts that were scored; None if none was."""
        scored = [(item, nats) for item in self.items.texts if (nats := _nats(given, _text_row(item))) is not None]
        if not scored:
            return None
        bits = [-nats / math.log(2) for _, nats in scored]
        sizes = [float(len(item.predicted.encode())) for item, _ in scored]
        data = ratio_of(bits, sizes, [item.group for item, _ in scored])
        interval = clustered.bootstrap_interval(data, seed=self.seed, n_resamples=self.n_resamples)
        return SuiteFigure(arm, "bits_per_byte", data.value(), interval, len(scored))


class _Part(NamedTuple):
    metric: Metric
    groups: list[str]
    values: dict[Arm, list[float | None]]


def _text_row(item: TextItem) -> Row:
    return _scored_row(item.item_id, item.group, item.shown, item.predicted)


def _choice_rows(item: ChoiceItem) -> list[Row]:
    """One for each choice, in the form that lm-eval gives to such questions."""
    shown = f"Question: {item.question}\nAnswer:"
    return [
        _scored_row(f"{item.item_id}/{number}", item.item_id, shown, f" {choice}")
        for number, choice in enumerate(item.choices)
    ]


def _instruction_row(item: InstructionItem) -> Row:
    return Row(f"{ID_PREFIX}{NAME}/{item.item_id}", item.item_id, None, (Message("user", item.prompt),), "")


def _scored_row(item_id: str, group: str, shown: str, scored: str) -> Row:
    prompt = (Message(SHOWN, shown), Message(SCORED, scored))
    return Row(f"{ID_PREFIX}{NAME}/{item_id}", group, None, prompt, "")


def _nats(given: Mapping[str, Answer], row: Row) -> float | None:
    answer = given.get(row.id)
    if answer is None or answer.error is not None:
        return None
    value = float(answer.text)
    return value if math.isfinite(value) else None


def _byte_probability(nats: float | None, text: str) -> float | None:
    return None if nats is None else math.exp(min(0.0, nats) / len(text.encode()))


def _is_right(given: Mapping[str, Answer], item: ChoiceItem) -> float | None:
    """None unless every choice was scored."""
    found = [_nats(given, row) for row in _choice_rows(item)]
    if any(nats is None for nats in found):
        return None
    per_byte = [
        nats / len(choice.encode()) for nats, choice in zip(found, item.choices, strict=True) if nats is not None
    ]
    return float(per_byte.index(max(per_byte)) == item.correct)


def _is_kept(answer: Answer | None, item: InstructionItem) -> float | None:
    return None if answer is None or answer.error is not None else float(keeps_rule(item, answer.text))
