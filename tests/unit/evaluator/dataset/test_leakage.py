"""The leakage triangle: what is found of five kinds of leaks, with which evidence, and what is let pass."""

from __future__ import annotations

import dataclasses
import json
import random
import textwrap

import pytest
from luthierd.evaluator.dataset import leakage
from luthierd.evaluator.dataset.leakage import Document, LeakageError, LeakageReport, check_leakage, document_of
from luthierd.evaluator.domain.rows import Message, Row
from support.evaluator_material import row, rows

WORDS = [f"{first}{second}" for first in ("mean", "sum", "sort", "scale", "shift") for second in range(400)]
SYNONYMS = 0.4


def sentence(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count)).capitalize() + "."


def material(count: int) -> list[Row]:
    rng = random.Random(7)
    return [
        Row(
            id=f"h{number}",
            group=f"g{number // 3}",
            label=None,
            prompt=(Message("user", sentence(rng, 40)),),
            reference=sentence(rng, 12),
        )
        for number in range(count)
    ]


def passage(found: Row) -> str:
    return f"{found.question}\n{found.reference}"


def paraphrase(found: Row, rng: random.Random) -> str:
    """The same order of thought with two of five words replaced."""
    return " ".join(rng.choice(WORDS) if rng.random() < SYNONYMS else word for word in passage(found).split())


def found_share(kind: str) -> float:
    holdout, rng = material(200), random.Random(3)
    texts = {
        "verbatim": passage,
        "wrapped": lambda found: textwrap.fill(passage(found), 30),
        "embedded": lambda found: f"{sentence(rng, 60)} Q: {found.question} A: {found.reference} {sentence(rng, 60)}",
        "edited": lambda found: " ".join([*passage(found).split()[:9], "edited", *passage(found).split()[10:]]),
        "paraphrased": lambda found: paraphrase(found, rng),
    }
    leaked = [Document(f"t{number}", texts[kind](found)) for number, found in enumerate(holdout)]
    clean = [document_of(found) for found in rows(200, split="train")]
    try:
        check_leakage(holdout, {"train": clean + leaked})
    except LeakageError as error:
        return int(error.metadata["refused_count"]) / len(holdout)
    return 0.0


@pytest.mark.parametrize("kind", ["verbatim", "wrapped", "embedded", "edited"])
def test_every_leak_of_these_kinds_is_refused(kind: str) -> None:
    assert found_share(kind) == 1.0


def test_a_paraphrase_is_not_found() -> None:
    assert found_share("paraphrased") == 0.0


def test_the_evidence_names_both_rows_the_kind_and_where() -> None:
    holdout, train = rows(3), rows(9, split="train")
    shouted = dataclasses.replace(
        holdout[1], id="t", prompt=(Message("user", holdout[1].question.upper().replace(" ", "\n")),)
    )
    with pytest.raises(LeakageError) as caught:
        check_leakage(holdout, {"train": map(document_of, train), "index": [document_of(shouted)]})
    assert caught.value.metadata["row"] == "holdout-1"
    assert (caught.value.metadata["other"], caught.value.metadata["other_set"]) == ("t", "index")
    (found,) = json.loads(caught.value.metadata["evidence"])
    assert found["kind"] == "normalised"


def test_the_same_id_is_a_leak_whatever_the_text_says() -> None:
    with pytest.raises(LeakageError) as caught:
        check_leakage([row(1)], {"trained": [Document("holdout-1", "something else entirely")]})
    assert caught.value.metadata["kind"] == "same_id"


def test_texts_half_alike_are_reported_with_their_exact_similarity() -> None:
    (holdout,) = material(1)
    words = passage(holdout).split()
    half = " ".join(words[:40])  # 38 of the 50 runs of three words, and none of its own
    report = check_leakage([holdout], {"train": [Document("t", half)]})
    assert report.counts == {"near_duplicate": 1}
    assert report.findings[0].similarity == pytest.approx(38 / 50)
    assert not report.findings[0].is_refused


def test_texts_exactly_at_the_bound_are_reported_though_only_the_least_rare_half_is_shared() -> None:
    """Equally frequent runs of words rank by their letters: the shared ones are the last that could be looked up."""
    words = [f"word{number:03}" for number in range(42)]  # 40 runs of three
    held = told(" ".join(words[:20]), " ".join(words[20:]))
    report = check_leakage([held], {"train": [Document("t", " ".join(words[20:]))]})
    assert [found.similarity for found in report.findings] == [leakage.REPORTED_SIMILARITY]
    below = check_leakage([held], {"train": [Document("t", " ".join(words[21:]))]})
    assert below.findings == ()


def test_strangers_are_not_reported() -> None:
    assert check_leakage(material(50), {"train": map(document_of, rows(50, split="train"))}) == LeakageReport()


def test_a_holdout_of_boilerplate_is_compared_exactly_all_the_same() -> None:
    def one(number: int, split: str) -> Row:
        text = f"{' '.join(WORDS[:40])} value {split}{number} end of it"
        return Row(id=f"{split}{number}", group="g", label=None, prompt=(Message("user", text),), reference="yes")

    with pytest.raises(LeakageError) as caught:
        check_leakage([one(n, "h") for n in range(300)], {"train": [document_of(one(5, "t"))]})
    assert float(caught.value.metadata["similarity"]) > leakage.REFUSED_SIMILARITY
    assert int(caught.value.metadata["refused_count"]) == 300


def test_a_wholly_copied_holdout_ends_the_check_early() -> None:
    copies = [Document(f"t{number}", passage(row(1))) for number in range(5000)]
    with pytest.raises(LeakageError) as caught:
        check_leakage([row(1)], {"train": iter(copies)})
    assert int(caught.value.metadata["refused_count"]) == leakage.MAX_REFUSED_PAIRS


def test_a_one_word_answer_in_a_passage_is_no_leak() -> None:
    question = Row(id="h", group="g", label=None, prompt=(Message("user", "Which one?"),), reference="linalg")
    assert check_leakage([question], {"index": [Document("p", "Which one? The module linalg.")]}).counts == {}


def told(question: str, answer: str, *, system: str = "") -> Row:
    turns = (Message("system", system), Message("user", question)) if system else (Message("user", question),)
    return Row(id="h", group="g", label=None, prompt=turns, reference=answer)


def test_a_passage_with_the_question_alone_or_the_answer_alone_is_no_leak() -> None:
    rng = random.Random(1)
    held = told(sentence(rng, 12), sentence(rng, 12))
    for known in (held.question, held.reference):
        long = f"{sentence(rng, 80)} {known} {sentence(rng, 80)}"
        assert check_leakage([held], {"index": [Document("p", long)]}).counts == {}


def test_words_are_found_as_words_not_as_parts_of_longer_ones() -> None:
    held = told("is the mean robust", "art is long here")
    around = sentence(random.Random(2), 60)
    whole = f"{around} is the mean robust {around} art is long here {around}"
    with pytest.raises(LeakageError):
        check_leakage([held], {"index": [Document("p", whole)]})
    inside = whole.replace(" art is long here ", " part is long heretics ")
    assert check_leakage([held], {"index": [Document("p", inside)]}).counts == {}


def test_case_and_the_width_of_letters_hide_nothing() -> None:
    held = told("Which function sorts a table by its columns", "It is called lexsort in this module")
    disguised = "ＷＨＩＣＨ FUNCTION SORTS A TABLE BY ITS COLUMNS\nIt is called LEXSORT in this module"
    with pytest.raises(LeakageError) as caught:
        check_leakage([held], {"train": [Document("t", disguised)]})
    assert caught.value.metadata["similarity"] == "1.00"


def test_a_system_prompt_that_all_rows_share_is_no_likeness() -> None:
    rng = random.Random(4)
    system = sentence(rng, 200)
    held, known = (told(sentence(rng, 20), sentence(rng, 6), system=system) for _ in range(2))
    assert check_leakage([held], {"train": [document_of(dataclasses.replace(known, id="t"))]}).counts == {}
