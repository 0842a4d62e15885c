"""Style: does an answer read like the tenant's own texts, or like the base model's? A classifier over character n-grams
learns the difference from the training references and the base arm's answers. Nobody grades it but itself: its accuracy
on texts that it did not learn from is reported with the metric.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from luthierd.evaluator.dataset.parsing import parse_answer
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metric_details import StyleReport
from luthierd.evaluator.domain.metrics import STYLE
from luthierd.evaluator.domain.rows import Row, TaskSpec
from luthierd.evaluator.domain.scores import ScoreFailedError
from luthierd.evaluator.scorers.scorer import MetricSpec, Needs, Sample, Scorer, ScoringMaterial, register

FOLDS = 5
MIN_TEXTS = 20
"""Below so many texts of a side five folds say nothing."""
# With two classes that hardly differ "reads like ours" is a coin: nothing is scored then.
MIN_ACCURACY = 0.6
MAX_TEXTS = 4000
"""Of each side; more change no accuracy (learning curve on the demo's texts) and cost seconds."""


@dataclass(frozen=True)
class _Text:
    text: str
    group: str
    is_own: bool


@register
class StyleScorer(Scorer):
    """Probability that the classifier gives to "ours". A group's answers are read by a classifier that has seen no text
    of that group, so that it knows the style and not the sentence.
    """

    spec = MetricSpec(STYLE, rank=21, needs=Needs(opt_in=True, base=True))

    def __init__(self, train: Sequence[Row], task: TaskSpec, *, seed: int) -> None:
        self._train, self._task, self._seed = train, task, seed
        self._fold_of: dict[str, int] = {}
        self._models: list[Any] = []
        self.report: StyleReport | None = None
        self._problem = "STYLE_NOT_PREPARED"

    @classmethod
    def build(cls, material: ScoringMaterial) -> Self:
        return cls(material.train, material.task, seed=material.config.seed)

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Learns, in a thread: a second for a thousand texts."""
        if not self._models:
            await asyncio.to_thread(self._learn, samples)

    async def score(self, sample: Sample) -> float:
        if self._problem:
            raise ScoreFailedError(self._problem)
        group = sample.row.group if sample.row else ""
        model = self._models[self._fold_of.get(group, 0)]
        return float(model.predict_proba([sample.said.text])[0, 1])

    def _learn(self, samples: Sequence[Sample]) -> None:
        import numpy as np
        from sklearn.metrics import balanced_accuracy_score

        base = [
            _Text(sample.answer.text, sample.row.group, False)
            for sample in samples
            if sample.arm is Arm.BASE and sample.answer and sample.row and sample.answer.text
        ]
        own = [_Text(parse_answer(row.reference, self._task).text, row.group, True) for row in self._train]
        rng = random.Random(self._seed)  # noqa: S311
        own, base = (rng.sample(side, min(len(side), MAX_TEXTS)) for side in (own, base))
        if min(len(own), len(base)) < MIN_TEXTS:
            self._problem = "STYLE_TOO_FEW_TEXTS"
            return
        texts = own + base
        groups = sorted({text.group for text in texts} | {sample.row.group for sample in samples if sample.row})
        rng.shuffle(groups)
        self._fold_of = dict(zip(groups, itertools.cycle(range(FOLDS)), strict=False))
        said: list[int] = []
        truth: list[int] = []
        for fold in range(FOLDS):
            learnt = [text for text in texts if self._fold_of[text.group] != fold]
            held_out = [text for text in texts if self._fold_of[text.group] == fold]
            if len({text.is_own for text in learnt}) < 2:
                self._problem = "STYLE_TOO_FEW_GROUPS"
                return
            model = _classifier(self._seed)
            model.fit([text.text for text in learnt], [int(text.is_own) for text in learnt])
            self._models.append(model)
            if held_out:
                said.extend(model.predict([text.text for text in held_out]))
                truth.extend(int(text.is_own) for text in held_out)
        accuracy = float(balanced_accuracy_score(np.asarray(truth), np.asarray(said)))
        self.report = StyleReport(held_out_accuracy=accuracy, own_count=len(own), base_count=len(base))
        self._problem = "" if accuracy >= MIN_ACCURACY else "STYLE_NOT_DISTINCT"


def _classifier(seed: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), max_features=20_000, sublinear_tf=True),
        LogisticRegression(class_weight="balanced", max_iter=200, random_state=seed),
    )
