"""Every metric: the modules of this package, and those of installed packages with entry points `luthier.scorers`."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import pkgutil

from luthierd.evaluator import scorers
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metrics import LABEL_ACCURACY, LABEL_F1_MACRO, ROUGE_L, Metric
from luthierd.evaluator.scorers.scorer import SCORERS, SPECS, MetricSpec, Scorer, ScoringMaterial


@functools.cache
def load() -> None:
    """Imports every module that registers metrics. None of them imports RAGAS or a model before it is built."""
    for module in pkgutil.iter_modules(scorers.__path__, f"{scorers.__name__}."):
        importlib.import_module(module.name)
    for entry_point in importlib.metadata.entry_points(group="luthier.scorers"):
        entry_point.load()


def known_metrics() -> tuple[Metric, ...]:
    """In the order of reports."""
    load()
    return tuple(sorted(SPECS, key=lambda metric: (SPECS[metric].rank, metric)))


def spec_of(metric: Metric) -> MetricSpec:
    """What is known of a metric; of one whose package is no longer installed, only its name."""
    load()
    return SPECS.get(metric, MetricSpec(metric))


def metrics_of(config: EvaluationConfig) -> tuple[Metric, ...]:
    """The metrics that are computed: those named, else the defaults, and always those that may decide the task.
    Macro-F1 is added where there are labels.
    """
    decisive = config.task.decisive
    if config.metrics:
        chosen = (*config.metrics, *((decisive,) if decisive else (ROUGE_L, LABEL_ACCURACY)))
    else:
        defaults = [metric for metric in known_metrics() if metric in SCORERS and SCORERS[metric].is_default(config)]
        chosen = (*defaults, *((decisive,) if decisive else ()))
    return tuple(dict.fromkeys(metric for metric in chosen if metric != LABEL_F1_MACRO))


def scorer_type(metric: Metric) -> type[Scorer] | None:
    """The scorer of a metric; None where a suite computes it, or other scores."""
    load()
    return SCORERS.get(metric)


def build_scorers(material: ScoringMaterial) -> list[Scorer]:
    """One scorer for each metric, in their order. Slow: it loads models and RAGAS."""
    load()
    return [SCORERS[metric].build(material) for metric in metrics_of(material.config)]


def needs_judge(config: EvaluationConfig) -> bool:
    """Whether any metric that will be computed needs a judge."""
    return any(spec_of(metric).needs.judge for metric in metrics_of(config))
