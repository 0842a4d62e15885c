"""Scorers that read an answer and ask nobody: documents, choices, hallucination, safety, style, consistency."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
import sacrebleu
from luthierd.evaluator.dataset.answer_schema import AnswerSchema, SchemaProblem
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import TaskSpec
from luthierd.evaluator.domain.scores import ScoreFailedError
from luthierd.evaluator.scorers.bleu import BleuScorer
from luthierd.evaluator.scorers.choice import ChoiceAccuracyScorer
from luthierd.evaluator.scorers.consistency import (
    INJECTION,
    PARAPHRASE,
    InjectionResistedScorer,
    ParaphraseConsistencyScorer,
    RepeatConsistencyScorer,
    canary_of,
)
from luthierd.evaluator.scorers.containment import ContainsReferenceScorer
from luthierd.evaluator.scorers.context_ids import ContextPrecisionIdScorer, ContextRecallIdScorer
from luthierd.evaluator.scorers.json_fields import FieldExactScorer, FieldF1Scorer, SchemaValidityScorer
from luthierd.evaluator.scorers.length import LengthRatioScorer
from luthierd.evaluator.scorers.registry import known_metrics, spec_of
from luthierd.evaluator.scorers.safety import (
    NonToxicScorer,
    PiiFreeScorer,
    RefusalCorrectScorer,
    abstains,
    presidio_finder,
    profanity_model,
)
from luthierd.evaluator.scorers.scorer import Passages, Sample, score_all
from luthierd.evaluator.scorers.style import StyleScorer
from luthierd.evaluator.scorers.supported import (
    EntitiesSupportedScorer,
    NumbersSupportedScorer,
    numbers_in,
    spacy_entities,
)
from support.evaluator_material import row, rows
from support.grading import sample, text

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}, "price": {"type": "number", "minimum": 0}},
        "required": ["name", "price"],
        "additionalProperties": False,
    }
)


def document(said: str, wanted: str = '{"name": "Ada", "tags": ["a", "b"], "size": {"w": 2}}') -> Sample:
    given = dataclasses.replace(row(0), reference=wanted)
    return dataclasses.replace(sample(0, said), row=given, reference=text(wanted))


@pytest.mark.parametrize(
    ("said", "valid"),
    [
        ('{"name": "Ada", "price": 3}', 1.0),
        ('{"name": "ada", "price": 3}', 0.0),
        ('{"name": "Ada", "price": -1}', 0.0),
        ('{"name": "Ada", "price": NaN}', 0.0),
        ('{"name": "Ada", "price": 3, "more": 1}', 0.0),
        ('```json\n{"name": "Ada", "price": 3}\n```', 0.0),
        ('{"name": "Ada"', 0.0),
        ("[" * 100_000, 0.0),
    ],
)
async def test_an_answer_is_valid_as_a_whole_by_its_schema(said: str, valid: float) -> None:
    assert await SchemaValidityScorer(AnswerSchema(SCHEMA)).score(document(said)) == valid


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"type": "strin"}', r"at \$.type"),
        ('{"$ref": "http://127.0.0.1:1/schema"}', "points outside"),
        ('{"patternProperties": {"(a+)+$": {}}}', "not allowed"),
        ('{"title": "' + "x" * 70_000 + '"}', "larger than"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: str, problem: str) -> None:
    with pytest.raises(SchemaProblem, match=problem):
        AnswerSchema(schema)


async def test_an_answer_on_which_the_schema_takes_too_long_is_a_failure_and_no_zero() -> None:
    scorer = SchemaValidityScorer(AnswerSchema('{"properties": {"a": {"pattern": "^(a|aa)+$"}}}'))
    (score,) = await score_all(scorer, [document(json.dumps({"a": "a" * 60 + "!"}))])
    assert (score.value, score.failure) == (None, "SCHEMA_TOO_SLOW")


@pytest.mark.parametrize(
    ("said", "exact", "f1"),
    [
        ('{"size": {"w": 2.0}, "tags": ["b", "a"], "name": " Ada"}', 1.0, 1.0),
        ('{"name": "Ada", "tags": ["a", "b"]}', 0.75, 6 / 7),
        ('{"name": "Bob", "tags": ["a"], "size": {"w": "2"}}', 0.25, 2 / 7),
        ('{"name": "Ada", "tags": ["a", "b"], "size": {"w": 2}, "x": 1, "y": 2}', 1.0, 8 / 10),
        ("Ada", 0.0, 0.0),
    ],
)
async def test_fields_are_compared_leaf_by_leaf(said: str, exact: float, f1: float) -> None:
    assert await FieldExactScorer().score(document(said)) == pytest.approx(exact)
    assert await FieldF1Scorer().score(document(said)) == pytest.approx(f1)


async def test_a_reference_without_fields_is_a_failure_and_no_zero() -> None:
    scores = await score_all(FieldF1Scorer(), [document("{}", wanted="plain text")])
    assert (scores[0].value, scores[0].failure) == (None, "REFERENCE_NOT_JSON")


async def test_bleu_is_sacrebleu_s_and_equal_texts_score_one() -> None:
    said, wanted = "The cat sat on a mat.", "The cat sat on the mat. It slept."
    given = dataclasses.replace(sample(0, said), reference=text(wanted))
    expected = sacrebleu.sentence_bleu(said, [wanted]).score / 100
    assert await BleuScorer().score(given) == pytest.approx(expected)
    same = dataclasses.replace(sample(0, wanted), reference=text(wanted))
    assert (await score_all(BleuScorer(), [same]))[0].value == 1.0


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("stats.chi2", 1.0),
        ("It is `Scipy.Stats.CHI2`: the test.", 1.0),
        ("stats.chi2_contingency", 0.0),
        ("stats.chi2.pdf", 0.0),
        ("I take stats.chi2.", 1.0),
        ("scistats.chi2", 0.0),
        ("statsXchi2", 0.0),
    ],
)
async def test_an_answer_contains_the_reference_as_whole_words(said: str, score: float) -> None:
    asked = dataclasses.replace(sample(0, said), reference=text("stats.chi2"))
    assert await ContainsReferenceScorer().score(asked) == score


async def test_a_reference_of_several_words_may_be_broken_over_lines_and_an_empty_one_is_no_reference() -> None:
    asked = dataclasses.replace(sample(0, "In New\nYork City."), reference=text("new york"))
    assert await ContainsReferenceScorer().score(asked) == 1.0
    with pytest.raises(ScoreFailedError, match="NO_REFERENCE"):
        await ContainsReferenceScorer().score(dataclasses.replace(asked, reference=text(" ")))


async def test_length_is_the_shorter_over_the_longer() -> None:
    for said in ("ab", "abcdefgh"):
        assert await LengthRatioScorer().score(dataclasses.replace(sample(0, said), reference=text("abcd"))) == 0.5


async def test_a_choice_is_right_as_a_whole() -> None:
    given = dataclasses.replace(row(0), reference="Paris", choices=("Paris", "Rome"))
    for said, value in (("Paris", 1.0), ("Rome", 0.0)):
        assert await ChoiceAccuracyScorer().score(dataclasses.replace(sample(0, said), row=given)) == value


def test_numbers_are_found_whatever_their_separators() -> None:
    assert numbers_in("1,000 of 2.5 in 1984, 3,14") == ["1000", "2.5", "1984", "3,14"]


async def test_numbers_and_names_that_stand_in_no_source_count_against_an_answer() -> None:
    passage = dataclasses.replace(row(1, split="train"), reference="Angela Merkel visited Paris with 1,200 guests.")
    passages = Passages({passage.id: passage})
    asked = dataclasses.replace(row(0), sources=(passage.id,))
    said = "Angela Merkel came with 1200 guests and 37 dogs. Barack Obama stayed in London."
    given = dataclasses.replace(sample(0, said), row=asked)
    assert await NumbersSupportedScorer(passages).score(given) == 0.5
    names = EntitiesSupportedScorer(passages, spacy_entities())
    clean = dataclasses.replace(given, raw="Angela Merkel visited Paris.")
    await names.prepare([given, clean])
    assert await names.score(given) < 0.5
    assert await names.score(clean) == 1.0


async def test_refusing_counts_as_right_where_the_reference_refuses_and_nowhere_else() -> None:
    scorer = RefusalCorrectScorer(abstains)
    refusal, answer = "I'm sorry, but I cannot help with that.", "Return the mean of the array."
    for wanted, said, value in ((refusal, refusal, 1.0), (refusal, answer, 0.0), (answer, refusal, 0.0)):
        given = dataclasses.replace(sample(0, said), row=dataclasses.replace(row(0), reference=wanted))
        assert await scorer.score(given) == value


@pytest.mark.parametrize(
    ("said", "free"),
    [
        ("Write to jane.doe@corp.internal.", 0.0),
        ("Pay with 4111 1111 1111 1111.", 0.0),
        ("The account is DE89370400440532013000.", 0.0),
        ("It runs on 8.8.8.8.", 0.0),
        ("It runs on 127.0.0.1, not ::1.", 1.0),
        ("Return x + 1234567890.", 1.0),
    ],
)
async def test_personal_data_in_an_answer_is_found(said: str, free: float) -> None:
    assert await PiiFreeScorer(Passages(), presidio_finder()).score(sample(0, said)) == free


async def test_personal_data_that_the_prompt_holds_is_no_leak() -> None:
    asked = dataclasses.replace(row(0), reference="Mail to bob@example.org.")
    given = dataclasses.replace(sample(0, "bob@example.org"), row=asked, reference=text(asked.reference))
    assert await PiiFreeScorer(Passages(), presidio_finder()).score(given) == 1.0


async def test_insults_are_toxic_and_docstrings_are_not() -> None:
    scorer = NonToxicScorer(profanity_model())
    insult, plain = sample(0, "You are a stupid idiot."), sample(1, "The function kills the process and returns None.")
    await scorer.prepare([insult, plain])
    assert [await scorer.score(one) for one in (insult, plain)] == [0.0, 1.0]


async def test_context_figures_by_ids() -> None:
    shown = tuple(row(number, split="train") for number in range(4))
    asked = dataclasses.replace(row(0), sources=("train-1", "train-9"))
    given = dataclasses.replace(sample(0), row=asked, shown=shown)
    assert await ContextPrecisionIdScorer().score(given) == 0.25
    assert await ContextRecallIdScorer().score(given) == 0.5
    with pytest.raises(ScoreFailedError, match="NO_SOURCES"):
        await ContextRecallIdScorer().score(dataclasses.replace(given, row=row(0)))


def styled(number: int, said: str, arm: Arm) -> Sample:
    return dataclasses.replace(sample(number, said, arm=arm), row=row(number), reference=text("x"))


async def style_of(base_says: str, own_says: str) -> StyleScorer:
    train = [dataclasses.replace(one, reference=f"{own_says} {one.id}.") for one in rows(60, split="train")]
    scorer = StyleScorer(train, TaskSpec(), seed=0)
    await scorer.prepare([styled(number, f"{base_says} item {number}.", Arm.BASE) for number in range(60)])
    return scorer


async def test_style_tells_the_houses_texts_from_the_base_models_and_says_how_well() -> None:
    scorer = await style_of("Sure! Here is the thing that you asked me for, my friend: it is", "Compute the norm of")
    assert scorer.report is not None
    assert scorer.report.held_out_accuracy > 0.95
    assert await scorer.score(styled(3, "Compute the norm of a matrix.", Arm.ADAPTER)) > 0.7
    assert await scorer.score(styled(3, "Sure! Here is the thing that you asked for.", Arm.ADAPTER)) < 0.3


async def test_styles_that_do_not_differ_are_not_scored() -> None:
    words = ["red", "blue", "one", "two", "cat", "dog", "sun", "sea"]
    rng = random.Random(1)

    def said() -> str:
        return " ".join(rng.choices(words, k=6))

    train = [dataclasses.replace(one, reference=said()) for one in rows(60, split="train")]
    scorer = StyleScorer(train, TaskSpec(), seed=0)
    await scorer.prepare([styled(number, said(), Arm.BASE) for number in range(60)])
    assert scorer.report is not None
    assert scorer.report.held_out_accuracy < 0.6
    with pytest.raises(ScoreFailedError, match="STYLE_NOT_DISTINCT"):
        await scorer.score(styled(1, "red sea", Arm.ADAPTER))


async def test_style_without_base_answers_has_a_reason() -> None:
    scorer = StyleScorer(rows(60, split="train"), TaskSpec(), seed=0)
    await scorer.prepare([])
    with pytest.raises(ScoreFailedError, match="STYLE_TOO_FEW_TEXTS"):
        await scorer.score(styled(1, "x", Arm.ADAPTER))


async def test_consistency_compares_the_answers_to_probes() -> None:
    steady = sample(0, "the mean of x", perturbations={f"repeat-{n}": "the mean of x" for n in (1, 2, 3)})
    wavering = sample(
        0, "a", perturbations={"repeat-1": "the mean of x", "repeat-2": "the mean of y", "repeat-3": "red"}
    )
    assert await RepeatConsistencyScorer().score(steady) == 1.0
    assert await RepeatConsistencyScorer().score(wavering) == pytest.approx(0.75 / 3)
    reworded = sample(0, "the mean of x", perturbations={PARAPHRASE: "the mean of y"})
    assert await ParaphraseConsistencyScorer().score(reworded) == pytest.approx(0.75)
    with pytest.raises(ScoreFailedError, match="PROBE_FAILED"):
        await RepeatConsistencyScorer().score(sample(0, perturbations={"repeat-1": "only one"}))


async def test_an_answer_that_obeys_an_injected_order_is_found() -> None:
    obeyed = sample(0, perturbations={INJECTION: f"ok: {canary_of('r0').lower()}"})
    assert await InjectionResistedScorer().score(obeyed) == 0.0
    assert await InjectionResistedScorer().score(sample(0, perturbations={INJECTION: "Return the sum."})) == 1.0


def test_every_opt_in_metric_says_so() -> None:
    default = {
        Metric("exact_match"),
        Metric("json_valid"),
        Metric("label_accuracy"),
        Metric("label_f1_macro"),
        Metric("rouge_l"),
    }
    default |= {Metric("chrf"), Metric("semantic_similarity"), Metric("json_schema_valid"), Metric("field_exact")}
    default |= {Metric("field_f1"), Metric("choice_accuracy")}
    assert {metric for metric in known_metrics() if not spec_of(metric).needs.opt_in} == default
