"""The metrics that suites compute (docs/evaluation-suites.md): they have no scorer."""

from __future__ import annotations

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.scorers.scorer import MetricSpec, Needs, register_spec


def _suite_metric(name: str, rank: int, *, label: str = "", is_proportion: bool = True) -> Metric:
    needs = Needs(opt_in=True, suite=True)
    return register_spec(MetricSpec(Metric(name), rank, label, is_proportion, needs))


EXPECTED_BEHAVIOUR = _suite_metric("expected_behaviour", 34)
ABSTENTION_PRECISION = _suite_metric("abstention_precision", 35)
ABSTENTION_RECALL = _suite_metric("abstention_recall", 36)
FORGETTING_LIKELIHOOD = _suite_metric("forgetting_likelihood", 37, label="Kept: general text", is_proportion=False)
FORGETTING_CHOICE = _suite_metric("forgetting_choice", 38, label="Kept: general questions")
FORGETTING_INSTRUCTIONS = _suite_metric("forgetting_instructions", 39, label="Kept: instructions")
COUNTERFACTUAL_STABILITY = _suite_metric("counterfactual_stability", 40)
LM_EVAL = _suite_metric("lm_eval", 41, label="lm-eval tasks", is_proportion=False)
