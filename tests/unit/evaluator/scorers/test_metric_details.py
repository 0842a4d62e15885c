"""Labels by class, against scikit-learn."""

from __future__ import annotations

import random

import pytest
from luthierd.evaluator.scorers.metric_details import label_report
from luthierd.evaluator.scorers.scorer import Sample
from sklearn.metrics import precision_recall_fscore_support
from support.grading import text


def test_precision_recall_and_f1_by_class_are_scikit_learn_s() -> None:
    rng = random.Random(7)
    truth = rng.choices("abcd", weights=(8, 4, 2, 1), k=300)
    said = [one if rng.random() < 0.6 else rng.choice("abcdz") for one in truth]
    samples = [
        Sample(row_id=str(n), reference=text(one), answer=text(other))
        for n, (one, other) in enumerate(zip(truth, said, strict=True))
    ]
    found = label_report(samples, [str(n // 5) for n in range(300)])
    expected = precision_recall_fscore_support(truth, said, labels=list("abcd"), zero_division=0)
    for position, one in enumerate(found.classes):
        assert one.label == "abcd"[position]
        figures = (one.precision.mean, one.recall.mean, one.f1, one.row_count)
        assert figures == pytest.approx([column[position] for column in expected])
        assert one.recall.low is not None
        assert one.recall.high is not None
        assert one.recall.low < one.recall.mean < one.recall.high
    macro = precision_recall_fscore_support(truth, said, labels=list("abcd"), average="macro", zero_division=0)
    assert (found.precision_macro, found.recall_macro) == pytest.approx(macro[:2])
    assert sum(cell.count for cell in found.confusion) == 300


def test_a_label_that_nobody_called_has_precision_zero_and_no_interval() -> None:
    samples = [
        Sample(row_id="1", reference=text("a"), answer=text("b")),
        Sample(row_id="2", reference=text("b"), answer=None, failure="PROMPT_TOO_LONG"),
    ]
    found = label_report(samples, ["g1", "g2"])
    assert [(one.precision.mean, one.recall.mean, one.recall.low) for one in found.classes] == [(0, 0, None)] * 2
    assert {(cell.reference, cell.predicted) for cell in found.confusion} == {("a", "b"), ("b", "(other)")}
