"""The import format."""

from __future__ import annotations

import io
import json

import pytest
from luthierd.curation.domain import Message, Role, Row, Span, row_from_json, row_to_json
from luthierd.curation.sources.rows import (
    ImportEmptyError,
    ImportLimits,
    RowContentEmptyError,
    RowError,
    RowIdDuplicateError,
    RowKeyUnknownError,
    RowLastNotAssistantError,
    RowNotJsonError,
    RowNotObjectError,
    RowNotUtf8Error,
    RowRoleMissingError,
    RowRoleUnknownError,
    RowShapeInvalidError,
    RowTooLargeError,
    TooManyRowsError,
    parse_rows,
    read_lines,
)
from luthierd.curation.stages.clean import Clean, CleanSettings
from luthierd.curation.stages.pii import PiiCounts, mask_row
from support.curation_material import apply

LIMITS = ImportLimits(max_row_bytes=500, max_row_count=20)
GOOD = b'{"prompt": "2 + 2?", "completion": "4"}\n'


def parse(data: bytes) -> list[Row]:
    return list(parse_rows(read_lines(io.BytesIO(data), LIMITS), LIMITS))


def chat(*messages: object, **keys: object) -> bytes:
    return json.dumps({"messages": messages, **keys}).encode()


USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "a"}


def test_a_prompt_and_completion_become_a_user_s_and_an_assistant_s_message() -> None:
    (row,) = parse(b'{"prompt": "2 + 2?", "completion": "4", "group": "sums", "label": "easy", "id": "one"}')
    messages = (Message(Role.USER, "2 + 2?"), Message(Role.ASSISTANT, "4"))
    assert row == Row(id="one", group="sums", label="easy", messages=messages)


def test_a_chat_keeps_its_turns() -> None:
    system = {"role": "system", "content": "s"}
    (row,) = parse(chat(system, USER, ASSISTANT, USER, ASSISTANT))
    assert [message.role for message in row.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert row.completion == "a"


def test_an_id_made_of_the_content_is_the_same_at_every_import_and_unique_within_one() -> None:
    first, again = parse(GOOD * 2)
    assert parse(GOOD)[0].id == first.id
    assert again.id == f"{first.id}-2"
    assert first.group == first.id


def test_lines_may_end_as_on_windows_begin_with_a_mark_and_be_blank() -> None:
    assert len(parse(b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n") + b"\r\n  \n" + GOOD)) == 2


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        (b"{not json}", RowNotJsonError, "column 2"),
        (b'{"prompt": "a"', RowNotJsonError, "not JSON"),
        (b"[" * 400, RowNotJsonError, "not JSON"),
        (b'{"prompt": ' + b"9" * 400 + b"}", RowShapeInvalidError, "completion"),
        (b'{"prompt": "\\ud800", "completion": "a"}', RowNotJsonError, "surrogate"),
        (b"42", RowNotObjectError, "a number"),
        (b"null", RowNotObjectError, "null"),
        (b'{"prompt": "\xff"}', RowNotUtf8Error, "byte 13"),
        (b'{"promt": "a", "completion": "b"}', RowKeyUnknownError, "did you mean 'prompt'"),
        (b'{"prompt": "a", "completion": "b", "tools": []}', RowKeyUnknownError, "known are"),
        (b'{"prompt": "a"}', RowShapeInvalidError, '"completion" is missing'),
        (b"{}", RowShapeInvalidError, "either"),
        (b'{"prompt": "a", "completion": "b", "messages": []}', RowShapeInvalidError, "either"),
        (b'{"prompt": "", "completion": "b"}', RowContentEmptyError, '"prompt" is empty'),
        (b'{"prompt": ["a"], "completion": "b"}', RowShapeInvalidError, "a list"),
        (b'{"prompt": "a", "completion": "b", "label": 1}', RowShapeInvalidError, "string"),
        (b'{"prompt": "a", "completion": "b", "group": ""}', RowShapeInvalidError, "string"),
        (b'{"prompt": "a", "completion": "b", "id": "x\\u2028y"}', RowShapeInvalidError, "invisible"),
        (chat(), RowShapeInvalidError, "list"),
        (chat("hello", ASSISTANT), RowShapeInvalidError, "a string"),
        (chat({"content": "q"}, ASSISTANT), RowRoleMissingError, "message 1"),
        (chat({"role": "users", "content": "q"}, ASSISTANT), RowRoleUnknownError, "did you mean 'user'"),
        (chat({"role": 3, "content": "q"}, ASSISTANT), RowRoleUnknownError, "3"),
        (chat({"role": "user"}, ASSISTANT), RowShapeInvalidError, 'no "content"'),
        (chat({"role": "user", "content": "q", "nam": "x"}, ASSISTANT), RowKeyUnknownError, "message 1"),
        (chat({"role": "user", "content": " "}, ASSISTANT), RowContentEmptyError, "message 1"),
        (chat(USER), RowLastNotAssistantError, "user's"),
        (chat(ASSISTANT), RowShapeInvalidError, "user"),
        (chat(USER, {"role": "system", "content": "s"}, ASSISTANT), RowShapeInvalidError, "first"),
        (b'{"prompt": "' + b"x" * 600 + b'", "completion": "b"}', RowTooLargeError, "500 bytes"),
    ],
)
def test_a_bad_line_is_named_by_number_and_fault(line: bytes, error: type[RowError], says: str) -> None:
    with pytest.raises(error, match="line 2: ") as caught:
        parse(GOOD + line + b"\n" + GOOD)
    assert says in str(caught.value)
    assert caught.value.line == 2
    assert caught.value.metadata["line"] == "2"


def test_a_long_name_is_refused() -> None:
    with pytest.raises(RowShapeInvalidError, match="longer than"):
        list(parse_rows([(1, chat(USER, ASSISTANT, id="x" * 513))], LIMITS))


def test_two_rows_with_one_id_name_both_lines() -> None:
    line = chat(USER, ASSISTANT, id="x") + b"\n"
    with pytest.raises(RowIdDuplicateError, match="line 3: line 1 has the id 'x'") as caught:
        parse(line + GOOD + line)
    assert caught.value.metadata == {"line": "3", "id": "x", "first_line": "1"}


@pytest.mark.parametrize("data", [b"", b"\n", b" \r\n\n"])
def test_an_empty_file_is_named(data: bytes) -> None:
    with pytest.raises(ImportEmptyError):
        parse(data)


def test_too_many_rows_are_refused() -> None:
    assert len(parse(GOOD * 20)) == 20
    with pytest.raises(TooManyRowsError, match="line 21"):
        parse(GOOD * 21)


def test_a_row_survives_the_trip_through_its_canonical_line() -> None:
    (row,) = parse(chat(USER, {"role": "assistant", "content": "é\u2028\n"}, label="l"))
    line = row_to_json(row)
    assert b"\n" not in line
    assert row_from_json(line) == row
    assert list(json.loads(line)) == ["group", "id", "label", "messages"]


def test_choices_and_sources_are_kept_cleaned_and_masked_like_every_text() -> None:
    line = b'{"prompt": "Who?", "completion": "Ann Lee ", "choices": ["Ann Lee ", "Bob"], "sources": ["row-1"]}'
    (row,) = parse_rows([(1, line)], ImportLimits())
    assert row_from_json(row_to_json(row)) == row
    kept = apply(Clean(CleanSettings()), [row]).rows
    assert (kept[0].choices, kept[0].completion, kept[0].sources) == (("Ann Lee", "Bob"), "Ann Lee", ("row-1",))
    spans = [[], [Span(0, 7, "PERSON", 0.9)], [], []]
    masked = mask_row(kept[0], spans, PiiCounts())
    assert (masked.completion, masked.choices) == ("<PERSON>", ("<PERSON>", "Bob"))


@pytest.mark.parametrize("choices", ['["a", "a", "b"]', '["a"]', '"b"', '["b", ""]', '["b", 1]'])
def test_choices_that_cannot_be_chosen_from_are_refused(choices: str) -> None:
    line = f'{{"prompt": "Which?", "completion": "b", "choices": {choices}}}'.encode()
    with pytest.raises(RowError, match="choices"):
        list(parse_rows([(1, line)], ImportLimits()))
