"""Every metric: its name, what it needs, and what it costs. docs/metrics.md says what each one means."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Metric(enum.StrEnum):
    """What is measured on an answer. Quality metrics run from 0 to 1, higher is better."""

    EXACT_MATCH = "exact_match"
    JSON_VALID = "json_valid"
    LABEL_ACCURACY = "label_accuracy"
    LABEL_F1_MACRO = "label_f1_macro"
    ROUGE_L = "rouge_l"
    CHRF = "chrf"
    SEMANTIC_SIMILARITY = "semantic_similarity"

    JSON_SCHEMA_VALID = "json_schema_valid"
    FIELD_EXACT = "field_exact"
    FIELD_F1 = "field_f1"
    CHOICE_ACCURACY = "choice_accuracy"

    BLEU = "bleu"
    CONTAINS_REFERENCE = "contains_reference"
    LENGTH_RATIO = "length_ratio"
    NUMBERS_SUPPORTED = "numbers_supported"
    ENTITIES_SUPPORTED = "entities_supported"
    REFUSAL_CORRECT = "refusal_correct"
    PII_FREE = "pii_free"
    NON_TOXIC = "non_toxic"
    CONTEXT_PRECISION_ID = "context_precision_id"
    CONTEXT_RECALL_ID = "context_recall_id"
    STYLE = "style"

    CONSISTENCY_REPEATS = "consistency_repeats"
    CONSISTENCY_PARAPHRASES = "consistency_paraphrases"
    INJECTION_RESISTED = "injection_resisted"

    FAITHFULNESS = "faithfulness"
    GROUNDEDNESS = "groundedness"
    ANSWER_RELEVANCY = "answer_relevancy"
    CONTEXT_PRECISION = "context_precision"
    CONTEXT_RECALL = "context_recall"
    FACTUAL_CORRECTNESS = "factual_correctness"
    RUBRIC = "rubric"
    STYLE_JUDGED = "style_judged"
    PAIRWISE = "pairwise"

    EXPECTED_BEHAVIOUR = "expected_behaviour"
    ABSTENTION_PRECISION = "abstention_precision"
    ABSTENTION_RECALL = "abstention_recall"
    FORGETTING_LIKELIHOOD = "forgetting_likelihood"
    FORGETTING_CHOICE = "forgetting_choice"
    FORGETTING_INSTRUCTIONS = "forgetting_instructions"
    COUNTERFACTUAL_STABILITY = "counterfactual_stability"
    LM_EVAL = "lm_eval"

    @property
    def is_proportion(self) -> bool:
        """True where every row scores 0 or 1, so that score intervals for proportions apply."""
        return self in _PROPORTIONS

    @property
    def needs(self) -> Needs:
        """What it takes; nothing for the ones that a plain evaluation computes."""
        return NEEDS.get(self, Needs())

    @property
    def label(self) -> str:
        """Its name for people."""
        return _LABELS.get(self) or self.value.replace("_", " ").capitalize()


@dataclass(frozen=True)
class Needs:
    """What a metric takes beyond answers and references.

    `opt_in`: it runs only where the configuration names it. `asks`: it puts more questions to the arms. `base`: it
    needs the base arm's answers. `suite`: it comes with a suite of the configuration (docs/evaluation-suites.md).
    `context`: it means something only for arms that were shown passages.
    """

    opt_in: bool = False
    judge: bool = False
    asks: bool = False
    base: bool = False
    suite: bool = False
    context: bool = False


_PROPORTIONS = frozenset(
    {
        Metric.EXACT_MATCH,
        Metric.CONTAINS_REFERENCE,
        Metric.JSON_VALID,
        Metric.LABEL_ACCURACY,
        Metric.JSON_SCHEMA_VALID,
        Metric.CHOICE_ACCURACY,
        Metric.REFUSAL_CORRECT,
        Metric.PII_FREE,
        Metric.NON_TOXIC,
        Metric.INJECTION_RESISTED,
        Metric.EXPECTED_BEHAVIOUR,
        Metric.ABSTENTION_PRECISION,
        Metric.ABSTENTION_RECALL,
        Metric.FORGETTING_CHOICE,
        Metric.FORGETTING_INSTRUCTIONS,
        Metric.COUNTERFACTUAL_STABILITY,
    }
)

_READS = Needs(opt_in=True)
_ASKS = Needs(opt_in=True, asks=True)
_JUDGED = Needs(opt_in=True, judge=True)
_SUITE = Needs(opt_in=True, suite=True)
_JUDGED_CONTEXT = Needs(opt_in=True, judge=True, context=True)

NEEDS: Mapping[Metric, Needs] = {
    Metric.BLEU: _READS,
    Metric.CONTAINS_REFERENCE: _READS,
    Metric.LENGTH_RATIO: _READS,
    Metric.NUMBERS_SUPPORTED: _READS,
    Metric.ENTITIES_SUPPORTED: _READS,
    Metric.REFUSAL_CORRECT: _READS,
    Metric.PII_FREE: _READS,
    Metric.NON_TOXIC: _READS,
    Metric.CONTEXT_PRECISION_ID: Needs(opt_in=True, context=True),
    Metric.CONTEXT_RECALL_ID: Needs(opt_in=True, context=True),
    Metric.STYLE: Needs(opt_in=True, base=True),
    Metric.CONSISTENCY_REPEATS: _ASKS,
    Metric.CONSISTENCY_PARAPHRASES: Needs(opt_in=True, asks=True, judge=True),
    Metric.INJECTION_RESISTED: _ASKS,
    Metric.FAITHFULNESS: _JUDGED_CONTEXT,
    Metric.GROUNDEDNESS: _JUDGED,
    Metric.ANSWER_RELEVANCY: _JUDGED,
    Metric.CONTEXT_PRECISION: _JUDGED_CONTEXT,
    Metric.CONTEXT_RECALL: _JUDGED_CONTEXT,
    Metric.FACTUAL_CORRECTNESS: _JUDGED,
    Metric.RUBRIC: _JUDGED,
    Metric.STYLE_JUDGED: _JUDGED,
    Metric.PAIRWISE: Needs(opt_in=True, judge=True, base=True),
    Metric.EXPECTED_BEHAVIOUR: _SUITE,
    Metric.ABSTENTION_PRECISION: _SUITE,
    Metric.ABSTENTION_RECALL: _SUITE,
    Metric.FORGETTING_LIKELIHOOD: _SUITE,
    Metric.FORGETTING_CHOICE: _SUITE,
    Metric.FORGETTING_INSTRUCTIONS: _SUITE,
    Metric.COUNTERFACTUAL_STABILITY: _SUITE,
    Metric.LM_EVAL: _SUITE,
}

_LABELS = {
    Metric.JSON_VALID: "Valid JSON",
    Metric.LABEL_F1_MACRO: "Label macro-F1",
    Metric.ROUGE_L: "ROUGE-L",
    Metric.CHRF: "chrF",
    Metric.BLEU: "BLEU",
    Metric.JSON_SCHEMA_VALID: "Valid by the schema",
    Metric.FIELD_F1: "Field F1",
    Metric.PII_FREE: "Free of PII",
    Metric.CONTEXT_PRECISION_ID: "Context precision (ids)",
    Metric.CONTEXT_RECALL_ID: "Context recall (ids)",
    Metric.PAIRWISE: "Pairwise against base",
    Metric.FORGETTING_LIKELIHOOD: "Kept: general text",
    Metric.FORGETTING_CHOICE: "Kept: general questions",
    Metric.FORGETTING_INSTRUCTIONS: "Kept: instructions",
    Metric.LM_EVAL: "lm-eval tasks",
}
