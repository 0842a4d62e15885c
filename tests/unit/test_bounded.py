"""What users make us run ends in time: patterns, schemas, and texts that slow our own patterns down."""

from __future__ import annotations

import json
import re
import time
import types
from collections.abc import Callable, Iterator

import pytest
import regex
from luthierd.bounded import USUAL_S, OutOfTimeError, TimeBudget, bound_recognizers
from luthierd.curation.domain import Message, Role, Row, Span
from luthierd.curation.sources.rows import ImportLimits, parse_rows
from luthierd.curation.stages.clean import clean_text
from luthierd.curation.stages.pii import PiiCounts, mask_row
from luthierd.evaluator.dataset.abstention import behaviour_of
from luthierd.evaluator.dataset.answer_schema import AnswerSchema, SchemaProblem
from luthierd.evaluator.suites.instruction_rules import RULES

EVIL = r"^(a|aa)+$"
VICTIM = "a" * 60 + "!"


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Every test here would take minutes to hours without its bound."""
    began = time.process_time()
    yield
    assert time.process_time() - began < 5


# --- the budget ---


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_run_has_its_time_and_the_next_one_has_it_again() -> None:
    clock = Clock()
    budget = TimeBudget(10.0, clock=clock)
    with budget.run(1.0):
        clock.now += 0.75
        assert budget.left_s == 0.25
        clock.now += 0.25
        with pytest.raises(OutOfTimeError):
            budget.left_s  # noqa: B018
    with budget.run(1.0):
        assert budget.left_s == 1.0


def test_slow_runs_use_the_total_up_and_usual_ones_do_not() -> None:
    clock = Clock()
    budget = TimeBudget(1.5, clock=clock)
    for _ in range(1000):
        with budget.run(1.0):
            clock.now += USUAL_S / 2
        with budget.run(5.0, usual_s=5.0):
            clock.now += 4.0
    for _ in range(2):
        assert not budget.is_spent
        with budget.run(1.0):
            clock.now += 0.75
    assert budget.is_spent
    with pytest.raises(OutOfTimeError), budget.run(1.0):
        raise AssertionError("it ran")


def test_a_pattern_that_backtracks_without_end_is_stopped() -> None:
    budget = TimeBudget(1.0)
    with pytest.raises(OutOfTimeError), budget.run(0.1):
        budget.search(EVIL, VICTIM)
    with budget.run(0.1):
        assert budget.search(EVIL, "aaa")


def test_a_recognizers_patterns_stop_instead_of_giving_up_in_silence() -> None:
    pattern = types.SimpleNamespace(regex=EVIL, compiled_regex=None, compiled_with_flags=None)
    budget = TimeBudget(1.0)
    bound_recognizers(
        [types.SimpleNamespace(patterns=[pattern], global_regex_flags=regex.IGNORECASE), object()], budget
    )
    with budget.run(0.1):
        assert [match.span() for match in pattern.compiled_regex.finditer("AAA", timeout=60)] == [(0, 3)]
    with pytest.raises(OutOfTimeError), budget.run(0.1):
        list(pattern.compiled_regex.finditer(VICTIM, timeout=60))


# --- schemas ---


def doubling(refer: Callable[[int], str]) -> str:
    """A schema of 30 definitions, each with the one before it twice."""
    definitions: dict[str, dict[str, object]] = {"d0": {"type": "object"}}
    for level in range(1, 30):
        definitions[f"d{level}"] = {"allOf": [{"$ref": refer(level - 1)}, {"$ref": refer(level - 1)}]}
    for name, definition in definitions.items():
        definition["$anchor"] = name
    return json.dumps({"properties": {"a": {"$ref": refer(29)}}, "$defs": definitions})


@pytest.mark.parametrize("reference", ["#/$defs/d{}", "#/%24defs/d{}", "#d{}"])
def test_a_schema_that_doubles_is_refused_before_anything_runs(reference: str) -> None:
    with pytest.raises(SchemaProblem, match="more than 10000 objects"):
        AnswerSchema(doubling(reference.format))


def test_a_schema_that_doubles_without_references_is_refused_after_a_trial() -> None:
    schema: dict[str, object] = {}
    for _ in range(30):
        schema = {"allOf": [schema], "unevaluatedProperties": False}
    with pytest.raises(SchemaProblem, match=r"longer than 0\.5 s"):
        AnswerSchema(json.dumps(schema))


def test_a_schema_of_many_definitions_that_are_used_a_few_times_is_taken() -> None:
    definitions = {f"d{n}": {"type": "object", "properties": {"x": {"type": "string"}}} for n in range(200)}
    properties = {f"p{n}": {"$ref": f"#/$defs/d{n % 200}"} for n in range(600)}
    schema = AnswerSchema(json.dumps({"properties": properties, "$defs": definitions}))
    assert schema.problem({"p1": {"x": "y"}}) == ""
    assert schema.problem({"p599": {"x": 1}}) == "$.p599.x: type"


def test_a_schema_that_refers_to_itself_is_taken() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}, "required": ["value"]}
    schema = AnswerSchema(json.dumps(tree))
    assert schema.problem({"value": 1, "left": {"value": 2, "right": {"value": 3}}}) == ""
    assert schema.problem({"value": 1, "left": {"right": {"value": 3}}}) == "$.left: required"


@pytest.mark.parametrize(
    ("schema", "document"),
    [
        ({"properties": {"a": {"pattern": EVIL}}}, {"a": VICTIM}),
        (
            {"properties": {"a": {"$schema": "https://json-schema.org/draft/2020-12/schema", "pattern": EVIL}}},
            {"a": VICTIM},
        ),
        ({"propertyNames": {"pattern": EVIL}}, {VICTIM: 1}),
        (
            {"$defs": {"r": {"properties": {"x": {"allOf": [{"$ref": "#/$defs/r"}] * 4}}}}, "$ref": "#/$defs/r"},
            json.loads('{"x":' * 20 + "1" + "}" * 20),
        ),
    ],
    ids=["pattern", "pattern below another draft", "property names", "a cycle that doubles with the document"],
)
def test_a_document_on_which_a_schema_takes_too_long_is_out_of_time(schema: object, document: object) -> None:
    checked = AnswerSchema(json.dumps(schema))
    with pytest.raises(OutOfTimeError):
        checked.problem(document)
    assert checked.problem({}) == ""


def test_unique_items_are_compared_in_no_time_and_as_json() -> None:
    schema = AnswerSchema('{"uniqueItems": true}')
    mixed = [[n] if n % 2 else {"n": n} for n in range(20_000)]
    assert schema.problem(mixed) == ""
    assert schema.problem([*mixed, [1]]) == "$: uniqueItems"
    assert schema.problem([1, 1.0]) == "$: uniqueItems"
    assert schema.problem([1, True, "1", 0, False, 1.5, "1.5"]) == ""


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"required": [1, "a"] * 1000}, "more than 1000 items"),
        ({"properties": {"a": {"pattern": "("}}}, "cannot be read"),
        ({"$defs": {"a": {"$id": "urn:a"}}}, "at the top only"),
        ({"$dynamicRef": "#a"}, "use `\\$ref`"),
        (json.loads('{"not":' * 400 + "{}" + "}" * 400), "too deep"),
    ],
)
def test_a_schema_whose_check_has_no_bound_is_refused(schema: object, problem: str) -> None:
    with pytest.raises(SchemaProblem, match=problem):
        AnswerSchema(json.dumps(schema))


# --- texts that slow our own patterns down ---


def test_a_long_run_of_blanks_within_a_line_is_cleaned_in_no_time() -> None:
    assert clean_text("é" + " " * 300_000 + "b \n\n") == "é" + " " * 300_000 + "b"


def test_equal_rows_get_their_ids_in_no_time() -> None:
    lines = ((number, b'{"prompt": "a", "completion": "b"}') for number in range(1, 20_001))
    ids = [row.id for row in parse_rows(lines, ImportLimits())]
    assert len(set(ids)) == 20_000
    assert ids[:3] == [ids[0], f"{ids[0]}-2", f"{ids[0]}-3"]


def test_many_masked_values_are_found_again_in_one_pass() -> None:
    addresses = [f"user{number}@corp.example" for number in range(5000)]
    text = " ".join(addresses)
    found = [Span(match.start(), match.end(), "EMAIL_ADDRESS", 1.0) for match in re.finditer(r"\S+", text)]
    row = Row(id="1", group="1", messages=(Message(Role.USER, text), Message(Role.ASSISTANT, text)))
    masked = mask_row(row, [found, []], PiiCounts())
    assert masked.completion == " ".join(["<EMAIL_ADDRESS>"] * 5000)


def test_a_value_within_another_word_stays() -> None:
    row = Row(id="1", group="1", messages=(Message(Role.USER, "Lovell"), Message(Role.ASSISTANT, "Lovell's, Lovells")))
    assert mask_row(row, [[Span(0, 6, "PERSON", 1.0)], []], PiiCounts()).completion == "<PERSON>'s, Lovells"


def test_fences_around_blanks_and_questions_without_an_end_are_judged_in_no_time() -> None:
    assert not RULES["json_object"].kept("```" + " " * 100_000 + "x", "text")
    assert RULES["json_object"].kept('```json\n{"text": "x"}\n```', "text")
    assert not behaviour_of("what thing do " * 100_000).is_abstention
