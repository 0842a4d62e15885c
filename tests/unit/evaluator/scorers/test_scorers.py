"""Scorers against their sources: rouge-score, sacrebleu, plain cosine."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import sacrebleu
from luthierd.evaluator.dataset.parsing import ParsedAnswer
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import Confusion, Score
from luthierd.evaluator.scorers.chrf import ChrfScorer
from luthierd.evaluator.scorers.exact_match import ExactMatchScorer
from luthierd.evaluator.scorers.json_validity import JsonValidityScorer
from luthierd.evaluator.scorers.labels import LabelAccuracyScorer, confusion
from luthierd.evaluator.scorers.rouge_l import RougeLScorer
from luthierd.evaluator.scorers.scorer import MetricSpec, Sample, Scorer, score_all
from luthierd.evaluator.scorers.semantic_similarity import SemanticSimilarityScorer
from rouge_score import rouge_scorer
from support.evaluator_material import HashingEmbedder

PAIRS = [
    ("Compute the mean of the array.", "Compute the median of an array along an axis."),
    ("Return a copy.", "Return a copy."),
    ("Fit the model.", ""),
    ("Größe der Matrix bestimmen.", "Die Größe einer Matrix"),
]


def text(value: str) -> ParsedAnswer:
    return ParsedAnswer(text=value, label=value, valid=False, canonical=value)


async def test_rouge_l_is_rouge_score_s_f_measure_with_stemming() -> None:
    source = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    for reference, said in PAIRS:
        expected = source.score(reference, said)["rougeL"].fmeasure
        assert await RougeLScorer().score(
            Sample(row_id="r", reference=text(reference), answer=text(said))
        ) == pytest.approx(expected)


async def test_chrf_is_sacrebleu_s_over_100() -> None:
    for reference, said in PAIRS:
        expected = sacrebleu.corpus_chrf([said], [[reference]]).score / 100
        assert await ChrfScorer().score(
            Sample(row_id="r", reference=text(reference), answer=text(said))
        ) == pytest.approx(expected, abs=1e-9)


async def test_exact_match_and_json_validity_are_zero_or_one() -> None:
    assert await ExactMatchScorer().score(Sample(row_id="r", reference=text("a"), answer=text("a"))) == 1.0
    assert await ExactMatchScorer().score(Sample(row_id="r", reference=text("a"), answer=text("A"))) == 0.0
    assert (
        await JsonValidityScorer().score(
            Sample(row_id="r", reference=text("a"), answer=ParsedAnswer("s", "m", True, "{}"))
        )
        == 1.0
    )


async def test_an_answer_without_a_label_is_wrong() -> None:
    scorer = LabelAccuracyScorer()
    assert (
        await scorer.score(
            Sample(
                row_id="r", reference=ParsedAnswer("", "stats", True, ""), answer=ParsedAnswer("", "stats", True, "")
            )
        )
        == 1.0
    )
    assert (
        await scorer.score(
            Sample(row_id="r", reference=ParsedAnswer("", "stats", True, ""), answer=ParsedAnswer("", None, False, ""))
        )
        == 0.0
    )
    assert (
        await scorer.score(
            Sample(row_id="r", reference=ParsedAnswer("", None, True, ""), answer=ParsedAnswer("", None, False, ""))
        )
        == 0.0
    )


async def test_semantic_similarity_is_the_cosine_and_embeds_each_text_once_in_one_batch() -> None:
    embedder = HashingEmbedder()
    scorer = SemanticSimilarityScorer(embedder)
    samples = [
        Sample(row_id=str(i), reference=text(reference), answer=text(said)) for i, (reference, said) in enumerate(PAIRS)
    ]
    await scorer.prepare(samples + samples)
    scores = await score_all(scorer, samples)
    assert embedder.batches == [7]  # eight texts, two of them the same
    a, b = HashingEmbedder().embed([PAIRS[0][0], PAIRS[0][1]])
    assert scores[0].value == pytest.approx(float(np.dot(a, b)), abs=1e-5)
    assert scores[1].value == pytest.approx(1.0, abs=1e-5)


async def test_a_row_that_cannot_be_scored_stays_as_a_failure() -> None:
    class Failing(Scorer):
        spec = MetricSpec(Metric("chrf"))

        async def score(self, sample: Sample) -> float:
            answer = sample.said
            if answer.text == "boom":
                raise KeyError("judge")
            return math.nan if answer.text == "nan" else 0.5

    samples = [
        Sample(row_id="a", reference=text("x"), answer=text("fine")),
        Sample(row_id="b", reference=text("x"), answer=text("boom")),
        Sample(row_id="c", reference=text("x"), answer=text("nan")),
        Sample(row_id="d", reference=text("x"), answer=None, failure="PROMPT_TOO_LONG"),
    ]
    assert await score_all(Failing(), samples) == [
        Score("a", 0.5),
        Score("b", None, "SCORER_ERROR: KeyError: 'judge'"),
        Score("c", None, "SCORER_NOT_FINITE"),
        Score("d", None, "PROMPT_TOO_LONG"),
    ]


def test_the_confusion_counts_name_labels_of_the_references_only() -> None:
    samples = [
        Sample(row_id="1", reference=text("a"), answer=text("a")),
        Sample(row_id="2", reference=text("a"), answer=text("b")),
        Sample(row_id="3", reference=text("b"), answer=text("zebra")),
        Sample(row_id="4", reference=text("b"), answer=None, failure="X"),
    ]
    found = confusion(samples)
    assert found.labels == ("a", "b")
    assert found.counts == {("a", "a"): 1, ("a", "b"): 1, ("b", Confusion.OTHER): 2}


def test_ragas_does_not_call_home() -> None:
    assert os.environ["RAGAS_DO_NOT_TRACK"] == "true"
