"""Forgetting: how well base and adapter still do what has nothing to do with the task, item by item and paired.

`forgetting_likelihood` is 2 to the minus bits per byte of a text, the geometric mean of the probabilities of its bytes;
`forgetting_choice` counts a question as right if the right choice has the highest log-probability per byte (lm-eval's
acc_norm); `forgetting_instructions` counts kept instructions. 1 is the best of each.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Answer, Row
from luthierd.evaluator.domain.scores import SuiteFigure
from luthierd.evaluator.scorers.suite_metrics import FORGETTING_CHOICE, FORGETTING_INSTRUCTIONS, FORGETTING_LIKELIHOOD
from luthierd.evaluator.suites.instruction_rules import InstructionItem, keeps_rule
from luthierd.evaluator.suites.retention_items import (
    ChoiceItem,
    RetentionItems,
    TextItem,
    build_items,
    without_overlap,
)
from luthierd.evaluator.suites.suite import (
    Answers,
    Suite,
    SuiteContext,
    SuiteScores,
    merged,
    paired_results,
    ratio_of,
    said,
    scored_row,
    text_row,
)
from luthierd.statistics import clustered
from luthierd.storage.blob_errors import BlobCorruptError, BlobNotFoundError

NAME = "retention"


@dataclass(frozen=True, kw_only=True)
class RetentionSuite(Suite):
    """Scores the items. `items.texts` must not overlap with the tenant's."""

    name = NAME
    config_field = "retention_suite"
    order = 1

    items: RetentionItems
    context: SuiteContext
    sha256: str = ""
    left_out_count: int = 0

    @classmethod
    async def of(cls, context: SuiteContext) -> RetentionSuite | None:
        item_count = context.config.suites.retention_item_count
        if item_count is None:
            return None
        sha256 = await _kept(context, item_count)
        items = RetentionItems.deserialise(await _intact(context, sha256, item_count))
        own = [f"{row.question}\n{row.reference}" for row in context.train]
        texts = await asyncio.to_thread(without_overlap, items.texts, own)
        left_out = len(items.texts) - len(texts)
        items = replace(items, texts=tuple(texts))
        return cls(items=items, context=context, sha256=sha256, left_out_count=left_out)

    @property
    def rows(self) -> list[Row]:
        """Scored texts, scored choices, instructions."""
        found = [_text_row(item) for item in self.items.texts]
        for item in self.items.choices:
            found += _choice_rows(item)
        return found + [_instruction_row(item) for item in self.items.instructions]

    @property
    def item_count(self) -> int:
        return sum(map(len, (self.items.texts, self.items.choices, self.items.instructions)))

    async def score(self, answers: Answers) -> SuiteScores:
        """The three metrics, and bits per byte of each arm."""
        return await asyncio.to_thread(self._score, answers)

    def _score(self, answers: Answers) -> SuiteScores:
        parts = []
        for metric, groups, values in (self._likelihood(answers), self._choice(answers), self._instructions(answers)):
            if groups:
                scores = {(metric, arm): found for arm, found in values.items()}
                parts.append(paired_results(scores, self.context.paired(groups)))
        bits = [figure for arm, given in answers.items() if (figure := self._bits_per_byte(arm, given))]
        return SuiteScores(merged(parts), figures=bits)

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
            arm: [_is_kept(said(given, _instruction_row(item)), item) for item in self.items.instructions]
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
        config = self.context.config
        interval = clustered.bootstrap_interval(data, seed=config.seed, n_resamples=config.resample_count)
        return SuiteFigure(arm, "bits_per_byte", data.value(), interval, len(scored))


class _Part(NamedTuple):
    metric: Metric
    groups: list[str]
    values: dict[Arm, list[float | None]]


async def _kept(context: SuiteContext, item_count: int) -> str:
    """The blob with the items of the base model: those that were made first, whatever Python made them."""
    base, catalogue = context.inputs.base_model_sha256, context.needed_parts.catalogue
    found = await catalogue.find(base, item_count)
    if found is not None:
        return found
    built = await asyncio.to_thread(build_items, base, item_count)
    sha256 = await context.put(built.serialise())
    await catalogue.add(base, item_count, blob_sha256=sha256)
    return await catalogue.find(base, item_count) or sha256


async def _intact(context: SuiteContext, sha256: str, item_count: int) -> bytes:
    """The blob's bytes. One that is damaged or gone is made again; its error, if other items come out today."""
    try:
        return await asyncio.to_thread(context.blobs.read_bytes, sha256)
    except (BlobNotFoundError, BlobCorruptError):
        built = await asyncio.to_thread(build_items, context.inputs.base_model_sha256, item_count)
        if await context.put(built.serialise()) != sha256:
            raise
        return built.serialise()


def _text_row(item: TextItem) -> Row:
    return scored_row(NAME, item.item_id, item.group, item.shown, item.predicted)


def _choice_rows(item: ChoiceItem) -> list[Row]:
    """One for each choice, in the form that lm-eval gives to such questions."""
    shown = f"Question: {item.question}\nAnswer:"
    return [
        scored_row(NAME, f"{item.item_id}/{number}", item.item_id, shown, f" {choice}")
        for number, choice in enumerate(item.choices)
    ]


def _instruction_row(item: InstructionItem) -> Row:
    return text_row(NAME, item.item_id, item.item_id, item.prompt)


def _nats(given: Mapping[str, Answer], row: Row) -> float | None:
    text = said(given, row)
    return float(text) if text is not None and math.isfinite(float(text)) else None


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


def _is_kept(text: str | None, item: InstructionItem) -> float | None:
    return None if text is None else float(keeps_rule(item, text))
