"""Reading answers."""

from __future__ import annotations

import json

from luthierd.evaluator.dataset.parsing import detect_task, has_labels, parse_answer
from luthierd.evaluator.domain.rows import Message, Row, TaskSpec
from support.evaluator_material import rows

JSON_TASK = TaskSpec("summary", "module", ("module", "summary"))


def plain_row(reference: str, label: str | None = None) -> Row:
    return Row(id="r", group="g", label=label, prompt=(Message("user", "?"),), reference=reference)


def test_json_references_show_their_label_field_and_their_text_field() -> None:
    assert detect_task(rows(6)) == JSON_TASK


def test_one_reference_that_is_no_json_object_makes_it_a_text_task() -> None:
    task = detect_task([*rows(3), plain_row("just text")])
    assert not task.is_json


def test_named_fields_are_taken_as_they_are() -> None:
    task = detect_task(rows(6), text_field="module", label_field="summary")
    assert (task.text_field, task.label_field) == ("module", "summary")


def test_a_field_that_disagrees_with_the_rows_label_is_no_label_field() -> None:
    unlabelled = [
        Row(id=row.id, group=row.group, label=None, prompt=row.prompt, reference=row.reference) for row in rows(6)
    ]
    task = detect_task(unlabelled)
    assert task.label_field is None
    assert task.text_field == "summary"


def test_a_valid_answer_is_read_by_its_fields() -> None:
    reading = parse_answer(' {"module": "stats", "summary": "Mean."}\n', JSON_TASK)
    assert (reading.text, reading.label, reading.valid) == ("Mean.", "stats", True)


def test_an_answer_that_is_no_json_keeps_its_raw_text_and_has_no_label() -> None:
    reading = parse_answer("The mean of stats.", JSON_TASK)
    assert (reading.text, reading.label, reading.valid) == ("The mean of stats.", None, False)


def test_json_with_a_missing_field_a_list_or_a_code_fence_is_not_valid() -> None:
    for text in [
        '{"summary": "Mean."}',
        '["stats"]',
        '```json\n{"module": "a", "summary": "b"}\n```',
        '{"module": 1, "summary": "b"}',
    ]:
        assert not parse_answer(text, JSON_TASK).valid


def test_a_deeply_nested_answer_is_invalid_and_no_crash() -> None:
    assert not parse_answer("[" * 100_000, JSON_TASK).valid


def test_spelling_of_json_does_not_change_its_canonical_form() -> None:
    tight = json.dumps({"summary": "Mean.", "module": "stats"}, separators=(",", ":"))
    loose = json.dumps({"module": "stats", "summary": "Mean."}, indent=4)
    assert parse_answer(tight, JSON_TASK).canonical == parse_answer(loose, JSON_TASK).canonical


def test_plain_references_that_are_the_labels_make_label_metrics_meaningful() -> None:
    assert has_labels([plain_row("spam", "spam"), plain_row("ham", "ham")], TaskSpec())
    assert not has_labels([plain_row("some text", "spam")], TaskSpec())
