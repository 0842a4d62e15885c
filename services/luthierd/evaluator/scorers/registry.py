"""Which scorers an evaluation runs, and building them. Everything slow to load is loaded here, in a worker's thread."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from luthierd.evaluator.dataset.answer_schema import AnswerSchema
from luthierd.evaluator.dataset.parsing import parse_answer
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metric_details import TaskKind
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Row, TaskSpec
from luthierd.evaluator.graders.judge import Judge
from luthierd.evaluator.scorers.scorer import Scorer
from luthierd.evaluator.scorers.sources import Passages

if TYPE_CHECKING:  # it imports RAGAS, which takes seconds
    from luthierd.evaluator.scorers.semantic_similarity import TextEmbedder

TEXT_METRICS = (
    Metric.EXACT_MATCH,
    Metric.JSON_VALID,
    Metric.LABEL_ACCURACY,
    Metric.ROUGE_L,
    Metric.CHRF,
    Metric.SEMANTIC_SIMILARITY,
)
FIELD_METRICS = (Metric.FIELD_EXACT, Metric.FIELD_F1)

Maker = Callable[[], Scorer]


@dataclass(frozen=True)
class ScoringMaterial:
    """What scorers are made of. `judge` is None where no metric asks one."""

    embedder: TextEmbedder
    config: EvaluationConfig = field(default_factory=EvaluationConfig)
    task: TaskSpec = field(default_factory=TaskSpec)
    train: Sequence[Row] = ()
    judge: Judge | None = None
    documents: Sequence[Row] = ()

    @property
    def passages(self) -> Passages:
        """What a row may name as its sources: training rows, and documents that retrieval searches."""
        return Passages({row.id: row for row in [*self.train, *self.documents]})


def metrics_of(config: EvaluationConfig) -> tuple[Metric, ...]:
    """The metrics that are computed: those named, and always those that may decide the task; by default those
    that ask no model anything. Macro-F1 comes by itself where there are labels.
    """
    kind = config.task
    deciding = (kind.decisive,) if kind.decisive else (Metric.ROUGE_L, Metric.LABEL_ACCURACY)
    if config.metrics:
        chosen = (*config.metrics, *deciding)
    elif kind.is_chosen:
        chosen = (Metric.CHOICE_ACCURACY, Metric.LABEL_ACCURACY)
    else:
        fields = FIELD_METRICS if kind is TaskKind.EXTRACTION else ()
        schema = (Metric.JSON_SCHEMA_VALID,) if config.json_schema else ()
        chosen = (*TEXT_METRICS, *fields, *schema, *((kind.decisive,) if kind.decisive else ()))
    return tuple(dict.fromkeys(metric for metric in chosen if metric is not Metric.LABEL_F1_MACRO))


def build_scorers(material: ScoringMaterial) -> list[Scorer]:
    """One scorer for each metric, in their order."""
    makers = _makers(material) | (_judged_makers(material, material.judge) if material.judge else {})
    return [makers[metric]() for metric in metrics_of(material.config)]


def _makers(material: ScoringMaterial) -> dict[Metric, Maker]:
    from luthierd.evaluator.scorers import choice, context_ids, json_fields, labels, length
    from luthierd.evaluator.scorers.bleu import BleuScorer
    from luthierd.evaluator.scorers.chrf import ChrfScorer
    from luthierd.evaluator.scorers.containment import ContainsReferenceScorer
    from luthierd.evaluator.scorers.exact_match import ExactMatchScorer
    from luthierd.evaluator.scorers.json_validity import JsonValidityScorer
    from luthierd.evaluator.scorers.rouge_l import RougeLScorer
    from luthierd.evaluator.scorers.semantic_similarity import SemanticSimilarityScorer

    found: dict[Metric, Maker] = {
        Metric.EXACT_MATCH: ExactMatchScorer,
        Metric.JSON_VALID: JsonValidityScorer,
        Metric.LABEL_ACCURACY: labels.LabelAccuracyScorer,
        Metric.ROUGE_L: RougeLScorer,
        Metric.CHRF: ChrfScorer,
        Metric.SEMANTIC_SIMILARITY: lambda: SemanticSimilarityScorer(material.embedder),
        Metric.JSON_SCHEMA_VALID: lambda: json_fields.SchemaValidityScorer(AnswerSchema(material.config.json_schema)),
        Metric.FIELD_EXACT: json_fields.FieldExactScorer,
        Metric.FIELD_F1: json_fields.FieldF1Scorer,
        Metric.CHOICE_ACCURACY: choice.ChoiceAccuracyScorer,
        Metric.BLEU: BleuScorer,
        Metric.CONTAINS_REFERENCE: ContainsReferenceScorer,
        Metric.LENGTH_RATIO: length.LengthRatioScorer,
        Metric.CONTEXT_PRECISION_ID: context_ids.ContextPrecisionIdScorer,
        Metric.CONTEXT_RECALL_ID: context_ids.ContextRecallIdScorer,
    }
    return found | _behaviour_makers(material)


def _behaviour_makers(material: ScoringMaterial) -> dict[Metric, Maker]:
    from luthierd.evaluator.scorers import consistency, safety, supported
    from luthierd.evaluator.scorers.style import StyleScorer

    passages = material.passages
    return {
        Metric.NUMBERS_SUPPORTED: lambda: supported.NumbersSupportedScorer(passages),
        Metric.ENTITIES_SUPPORTED: lambda: supported.EntitiesSupportedScorer(passages, supported.spacy_entities()),
        Metric.REFUSAL_CORRECT: lambda: safety.RefusalCorrectScorer(safety.abstains),
        Metric.PII_FREE: lambda: safety.PiiFreeScorer(passages, safety.presidio_finder()),
        Metric.NON_TOXIC: lambda: safety.NonToxicScorer(safety.profanity_model()),
        Metric.STYLE: lambda: StyleScorer(material.train, material.task, seed=material.config.seed),
        Metric.CONSISTENCY_REPEATS: consistency.RepeatConsistencyScorer,
        Metric.CONSISTENCY_PARAPHRASES: consistency.ParaphraseConsistencyScorer,
        Metric.INJECTION_RESISTED: consistency.InjectionResistedScorer,
    }


def _judged_makers(material: ScoringMaterial, judge: Judge) -> dict[Metric, Maker]:
    from luthierd.evaluator.scorers.judged import PairwiseScorer, RubricScorer, StyleJudgedScorer
    from luthierd.evaluator.scorers.ragas_judged import ragas_scorers

    ragas = ragas_scorers(judge, material.embedder, material.passages)
    own = [parse_answer(row.reference, material.task).text for row in material.train]
    examples = random.Random(material.config.seed).sample(own, min(2, len(own)))  # noqa: S311
    return {
        Metric.RUBRIC: lambda: RubricScorer(judge, material.config.rubric),
        Metric.STYLE_JUDGED: lambda: StyleJudgedScorer(judge, examples),
        Metric.PAIRWISE: lambda: PairwiseScorer(judge),
        **{metric: functools.partial(ragas.__getitem__, metric) for metric in ragas},
    }
