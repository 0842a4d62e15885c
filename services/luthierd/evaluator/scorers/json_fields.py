"""JSON documents: by a schema, and field by field against the reference."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from luthierd.evaluator.dataset.answer_schema import AnswerSchema
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import ScoreFailedError
from luthierd.evaluator.scorers.scorer import Sample

# Path of a leaf, then its value as text with its type: 1 and 1.0 are one number, "1" and true are not.
Leaf = tuple[str, str]


class SchemaValidityScorer:
    """1 if the whole answer is JSON that the schema allows, else 0. NaN and Infinity are not JSON."""

    metric = Metric.JSON_SCHEMA_VALID

    def __init__(self, schema: AnswerSchema) -> None:
        self._schema = schema

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing to batch."""

    async def score(self, sample: Sample) -> float:
        try:
            document = parse_json(sample.raw)
        except ValueError:
            return 0.0
        return float(not self._schema.problem(document))


class FieldExactScorer:
    """Share of the reference's leaf values that the answer has at the same place. The order in lists does not count."""

    metric = Metric.FIELD_EXACT

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing to batch."""

    async def score(self, sample: Sample) -> float:
        wanted = _reference_leaves(sample)
        return (wanted & _leaves(sample.raw)).total() / wanted.total()


class FieldF1Scorer:
    """F1 over leaf values at their places: fields that the answer invents count against it."""

    metric = Metric.FIELD_F1

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing to batch."""

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
