"""JSON documents: by a schema, and field by field against the reference."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn, Self

from luthierd.bounded import OutOfTimeError
from luthierd.errors import FieldViolation
from luthierd.evaluator.dataset.answer_schema import AnswerSchema
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metric_details import TaskKind
from luthierd.evaluator.domain.metrics import FIELD_F1, JSON_SCHEMA_VALID, Metric
from luthierd.evaluator.domain.scores import ScoreFailedError
from luthierd.evaluator.scorers.scorer import MetricSpec, Sample, Scorer, ScoringMaterial, register

# Path of a leaf, then its value as text with its type: 1 and 1.0 are one number, "1" and true are not.
Leaf = tuple[str, str]


@register
class SchemaValidityScorer(Scorer):
    """1 if the whole answer is JSON that the schema allows, else 0. NaN and Infinity are not JSON.

    An answer that the schema cannot be applied to in time is a failure, not a 0.
    """

    spec = MetricSpec(JSON_SCHEMA_VALID, rank=7, label="Valid by the schema", is_proportion=True)

    def __init__(self, schema: AnswerSchema) -> None:
        self._schema = schema

    @classmethod
    def build(cls, material: ScoringMaterial) -> Self:
        return cls(AnswerSchema(material.config.json_schema))

    @classmethod
    def is_default(cls, config: EvaluationConfig) -> bool:
        return bool(config.json_schema) and not config.task.is_chosen

    @classmethod
    def violations(cls, config: EvaluationConfig) -> Iterator[FieldViolation]:
        if not config.json_schema:
            yield FieldViolation("evaluation.config.json_schema", f"{JSON_SCHEMA_VALID} needs a schema")

    async def score(self, sample: Sample) -> float:
        try:
            document = parse_json(sample.raw)
        except ValueError:
            return 0.0
        try:
            return float(not await asyncio.to_thread(self._schema.problem, document))
        except OutOfTimeError:
            raise ScoreFailedError("SCHEMA_TOO_SLOW") from None


@register
class FieldExactScorer(Scorer):
    """Share of the reference's leaf values that the answer has at the same place. The order in lists does not count."""

    spec = MetricSpec(Metric("field_exact"), rank=8)

    @classmethod
    def is_default(cls, config: EvaluationConfig) -> bool:
        return config.task is TaskKind.EXTRACTION

    async def score(self, sample: Sample) -> float:
        wanted = _reference_leaves(sample)
        return (wanted & _leaves(sample.raw)).total() / wanted.total()


@register
class FieldF1Scorer(Scorer):
    """F1 over leaf values at their places: fields that the answer invents count against it."""

    spec = MetricSpec(FIELD_F1, rank=9, label="Field F1")

    @classmethod
    def is_default(cls, config: EvaluationConfig) -> bool:
        return config.task is TaskKind.EXTRACTION

    async def score(self, sample: Sample) -> float:
        wanted, given = _reference_leaves(sample), _leaves(sample.raw)
        return 2 * (wanted & given).total() / (wanted.total() + given.total())


def parse_json(text: str) -> Any:
    """The document of a whole text. ValueError if it is not JSON, or nested too deep to be read."""
    try:
        return json.loads(text.strip(), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("too deep") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _reference_leaves(sample: Sample) -> Counter[Leaf]:
    found = _leaves(sample.row.reference if sample.row else sample.reference.canonical)
    if not found:
        raise ScoreFailedError("REFERENCE_NOT_JSON")
    return found


def _leaves(text: str) -> Counter[Leaf]:
    """The leaves of a JSON object or list; none for any other text."""
    try:
        document = parse_json(text)
        return Counter(_walk(document, "$")) if isinstance(document, dict | list) else Counter()
    except (ValueError, RecursionError):
        return Counter()


def _walk(node: Any, path: str) -> Iterator[Leaf]:
    if isinstance(node, dict) and node:
        for key, child in node.items():
            yield from _walk(child, f"{path}.{json.dumps(key)}")
    elif isinstance(node, list) and node:
        for child in node:
            yield from _walk(child, f"{path}[]")
    elif isinstance(node, float) and node.is_integer():
        yield path, json.dumps(int(node))
    elif isinstance(node, str):
        yield path, json.dumps(node.strip())
    else:
        yield path, json.dumps(node)
