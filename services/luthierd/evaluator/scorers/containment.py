"""Containment: the answer holds the reference, whatever stands around it. For facts, whose form is not the question."""

from __future__ import annotations

import re

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import ScoreFailedError
from luthierd.evaluator.scorers.scorer import MetricSpec, Needs, Sample, Scorer, register


@register
class ContainsReferenceScorer(Scorer):
    """1 if the reference stands in the answer as whole words, case and white space aside, else 0.

    `stats.chi2` is in "scipy.stats.chi2: a test"; not in "stats.chi2_contingency", "stats.chi2.pdf" or "scistats.chi2".
    """

    spec = MetricSpec(Metric("contains_reference"), rank=12, is_proportion=True, needs=Needs(opt_in=True))

    async def score(self, sample: Sample) -> float:
        wanted = sample.reference.text.casefold().split()
        if not wanted:
            raise ScoreFailedError("NO_REFERENCE")
        pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, wanted)) + r"(?!\w|\.\w)"
        return float(re.search(pattern, sample.said.text.casefold()) is not None)
