"""The import format: one row a line, as JSON, either of

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}   OpenAI's chat format
    {"prompt": "...", "completion": "..."}

each with optional "group", "label", "id", "feedback": {"rating": "GOOD" or "BAD", "labels": ["..."]}, "choices": the
answers to choose from, the right one among them, and "sources": ids of the rows that support the answer. All or
nothing: the first bad line is a RowError with its 1-based number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from luthierd.curation.domain import Feedback, Message, Role, Row, canonical_json
from luthierd.errors import InvalidArgumentError
from luthierd.text import nearest

ROW_KEYS = ("messages", "prompt", "completion", "group", "label", "id", "feedback", "choices", "sources")
FEEDBACK_KEYS, RATINGS, MAX_LABELS = ("rating", "labels"), ("GOOD", "BAD"), 16
MESSAGE_KEYS = ("role", "content")
MAX_CHOICES = 64
"""Of a row, and so many `sources`: each choice is scored by its own request."""
MAX_NAME_CHARACTERS = 512
"""Of `id`, `group` and `label`: they become parts of reports."""
DERIVED_ID_HEX = 16
"""64 bits of the content's sha256: among a million rows a collision has a probability below 1e-7, and is resolved."""


class RowError(InvalidArgumentError):
    """A line of an import that is not a row. `line` is 1-based; 0 before it is known."""

    field_name = "data"

    def __init__(self, problem: str, *, line: int = 0, **metadata: str) -> None:
        super().__init__(f"line {line}: {problem}", metadata={"line": str(line), **metadata})
        self.line, self._problem, self._metadata = line, problem, metadata

    def at(self, line: int) -> RowError:
        """The same error of a line."""
        return type(self)(self._problem, line=line, **self._metadata)


class RowTooLargeError(RowError):
    """A row exceeds the size limit."""

    reason = "ROW_TOO_LARGE"


class RowIdDuplicateError(RowError):
    """Two rows have the same id."""

    reason = "ROW_ID_DUPLICATE"


class RowNotUtf8Error(RowError):
    """A line is not valid UTF-8."""

    reason = "ROW_NOT_UTF8"


class RowNotJsonError(RowError):
    """A line does not parse."""

    reason = "ROW_NOT_JSON"


class RowNotObjectError(RowError):
    """A line is JSON but not an object."""

    reason = "ROW_NOT_OBJECT"


class RowKeyUnknownError(RowError):
    """A key that is not part of the format."""

    reason = "ROW_KEY_UNKNOWN"


class RowShapeInvalidError(RowError):
    """A part of a row is missing, of the wrong type or in the wrong place."""

    reason = "ROW_SHAPE_INVALID"


class RowLastNotAssistantError(RowError):
    """Nothing to learn: the last message is not the assistant's."""

    reason = "ROW_LAST_NOT_ASSISTANT"


class RowRoleMissingError(RowError):
    """A message without a role."""

    reason = "ROW_ROLE_MISSING"


class RowRoleUnknownError(RowError):
    """A role that is not part of the format."""

    reason = "ROW_ROLE_UNKNOWN"


class RowContentEmptyError(RowError):
    """A message without text."""

    reason = "ROW_CONTENT_EMPTY"


class ImportEmptyError(InvalidArgumentError):
    """The import has no rows."""

    reason = "IMPORT_EMPTY"
    field_name = "data"

    def __init__(self) -> None:
        super().__init__('the import has no row; write one JSON object a line: {"prompt": "...", "completion": "..."}')


class TooManyRowsError(InvalidArgumentError):
    """The import exceeds the row limit."""

    reason = "IMPORT_TOO_MANY_ROWS"
    field_name = "data"


@dataclass(frozen=True)
class ImportLimits:
    """Bounds of one import."""

    max_row_bytes: int = 1024 * 1024
    max_row_count: int = 1_000_000


def read_lines(file: BinaryIO, limits: ImportLimits) -> Iterator[tuple[int, bytes]]:
    """Lines with their 1-based numbers, never more than one of them in memory. RowTooLargeError."""
    number = 0
    while line := file.readline(limits.max_row_bytes + 2):
        number += 1
        content = line.rstrip(b"\r\n")
        check_size(number, content, limits)
        yield number, content.removeprefix(b"\xef\xbb\xbf") if number == 1 else content


def check_size(number: int, line: bytes, limits: ImportLimits) -> None:
    """RowTooLargeError."""
    if len(line) > (limit := limits.max_row_bytes):
        problem = f"the row is larger than {limit} bytes; shorten it or split it into several rows"
        raise RowTooLargeError(problem, line=number, limit_bytes=str(limit))


def parse_rows(lines: Iterable[tuple[int, bytes]], limits: ImportLimits) -> Iterator[Row]:
    """Rows in order. RowError at the first bad line, ImportEmptyError if there is none at all. Blank lines are skipped.

    A row without `id` gets one made of its content, the same at every import; one without `group` is its own group.
    """
    line_by_id: dict[str, int] = {}
    copies: dict[str, int] = {}
    for number, line in lines:
        if not line.strip():
            continue
        if len(line_by_id) >= limits.max_row_count:
            raise TooManyRowsError(
                f"line {number}: more than {limits.max_row_count} rows; import the rest as another dataset",
                metadata={"line": str(number), "limit_count": str(limits.max_row_count)},
            )
        try:
            row = _parse_row(line, line_by_id, copies)
        except RowError as error:
            raise error.at(number) from None
        line_by_id[row.id] = number
        yield row
    if not line_by_id:
        raise ImportEmptyError


def _parse_row(line: bytes, line_by_id: Mapping[str, int], copies: dict[str, int]) -> Row:
    raw = _parse_object(line)
    _check_keys(raw, ROW_KEYS, "row")
    messages = _parse_messages(raw)
    row_id = _parse_name(raw, "id")
    if row_id is None:
        row_id = _derive_id(messages, line_by_id, copies)
    elif first := line_by_id.get(row_id):
        problem = f"line {first} has the id {row_id!r} already; give each row its own, or leave the ids out"
        raise RowIdDuplicateError(problem, id=row_id, first_line=str(first))
    choices = _parse_texts(raw, "choices")
    if choices and messages[-1].content not in choices:
        raise RowShapeInvalidError('the answer is not one of "choices"; add it to them', key="choices")
    return Row(
        id=row_id,
        group=_parse_name(raw, "group") or row_id,
        label=_parse_name(raw, "label"),
        messages=messages,
        feedback=_parse_feedback(raw.get("feedback")),
        choices=choices,
        sources=_parse_texts(raw, "sources"),
    )


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode())
        # \ud800 and the like are valid JSON and no text: no tokenizer, file or database takes them
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        byte = str(error.start + 1)
        raise RowNotUtf8Error(f"byte {byte} is not UTF-8; save the file as UTF-8 (iconv -t UTF-8)", byte=byte) from None
    except json.JSONDecodeError as error:
        problem = f"it is not JSON: {error.msg} at column {error.colno}; each line must be one whole JSON object"
        raise RowNotJsonError(problem, column=str(error.colno)) from None
    except UnicodeEncodeError:
        raise RowNotJsonError("it has half of a surrogate pair (\\ud800-\\udfff); write the whole character") from None
    except (RecursionError, ValueError) as error:
        raise RowNotJsonError(f"it is not JSON that can be read: {error}") from None
    if not isinstance(value, dict):
        raise RowNotObjectError(f'it is {_kind(value)}, not an object; write {{"prompt": "...", "completion": "..."}}')
    return value


def _check_keys(raw: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in raw:
        if key not in known:
            near = nearest(key, known)
            hint = f"did you mean {near!r}?" if near else f"known are {', '.join(known)}; remove it"
            raise RowKeyUnknownError(f"unknown key {key!r} in the {where}; {hint}", key=key, nearest=near)


def _parse_messages(raw: Mapping[str, Any]) -> tuple[Message, ...]:
    has_pair = "prompt" in raw or "completion" in raw
    if has_pair == ("messages" in raw):
        raise RowShapeInvalidError('give either "messages" or both "prompt" and "completion"')
    if has_pair:
        for key in ("prompt", "completion"):
            if key not in raw:
                raise RowShapeInvalidError(f'"{key}" is missing; give both "prompt" and "completion"', key=key)
        pairs = ((Role.USER, "prompt"), (Role.ASSISTANT, "completion"))
        return tuple(Message(role, _parse_content(raw[key], f'"{key}"')) for role, key in pairs)
    if not isinstance(raw["messages"], list) or not raw["messages"]:
        raise RowShapeInvalidError("\"messages\" must be a list of at least a user's and an assistant's message")
    messages = tuple(_parse_message(message, index) for index, message in enumerate(raw["messages"], start=1))
    if (last := messages[-1].role) is not Role.ASSISTANT:
        problem = f"the last message is the {last}'s; end with the assistant's answer, which is what is learned"
        raise RowLastNotAssistantError(problem, role=last)
    if not any(message.role is Role.USER for message in messages[:-1]):
        raise RowShapeInvalidError("no message of the user comes before the answer; add the question")
    return messages


def _parse_message(message: Any, index: int) -> Message:
    where = f"message {index}"
    if not isinstance(message, dict):
        raise RowShapeInvalidError(f'{where} is {_kind(message)}; write {{"role": "user", "content": "..."}}')
    _check_keys(message, MESSAGE_KEYS, where)
    role, roles = message.get("role"), ", ".join(Role)
    if role is None:
        raise RowRoleMissingError(f'{where} has no "role"; add one of {roles}', message=str(index))
    if not isinstance(role, str) or role not in list(Role):
        near = nearest(str(role).lower(), Role)
        hint = f"; did you mean '{near}'?" if near else ""
        raise RowRoleUnknownError(f"{where} has the role {role!r}; known are {roles}{hint}", role=str(role)[:64])
    if role == Role.SYSTEM and index > 1:
        raise RowShapeInvalidError(f"{where} is a system message; only the first message may be one")
    if "content" not in message:
        raise RowShapeInvalidError(f'{where} has no "content"', message=str(index))
    return Message(Role(role), _parse_content(message["content"], f'"content" of {where}'))


def _parse_content(content: Any, where: str) -> str:
    if not isinstance(content, str):
        raise RowShapeInvalidError(f"{where} is {_kind(content)}; write it as one string")
    if not content.strip():
        raise RowContentEmptyError(f"{where} is empty; fill it in or remove the row")
    return content


def _parse_name(raw: Mapping[str, Any], key: str) -> str | None:
    value = raw.get(key)
    if value is None:
        return None
    problem = ""
    if not isinstance(value, str) or not value.strip():
        problem = f"is {value!r:.40}; write a string that is not empty, or leave it out"
    elif not value.isprintable():
        problem = "contains a line break or another invisible character; remove it"
    elif len(value) > MAX_NAME_CHARACTERS:
        problem = f"is longer than {MAX_NAME_CHARACTERS} characters"
    if problem:
        raise RowShapeInvalidError(f'"{key}" {problem}', key=key)
    return str(value)


def _parse_feedback(value: Any) -> Feedback | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        problem = f'"feedback" is {_kind(value)}; write {{"rating": "GOOD", "labels": ["..."]}}'
        raise RowShapeInvalidError(problem, key="feedback")
    _check_keys(value, FEEDBACK_KEYS, "feedback")
    rating, labels = value.get("rating"), value.get("labels") or []
    if rating is not None and rating not in RATINGS:
        raise RowShapeInvalidError(f'"rating" is {rating!r:.40}; known are {", ".join(RATINGS)}', key="rating")
    if not isinstance(labels, list) or len(labels) > MAX_LABELS:
        raise RowShapeInvalidError(f'"labels" must be a list of at most {MAX_LABELS} strings', key="labels")
    checked = {_parse_name({"labels": label}, "labels") for label in labels}
    return Feedback(rating, tuple(sorted(label for label in checked if label)))


def _parse_texts(raw: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of different texts that are not empty; an absent one is empty."""
    value = raw.get(key)
    if value is None:
        return ()
    is_list = isinstance(value, list) and len(value) <= MAX_CHOICES
    if not is_list or not all(isinstance(one, str) and one for one in value) or len(set(value)) < len(value):
        raise RowShapeInvalidError(f'"{key}" must be a list of at most {MAX_CHOICES} different texts', key=key)
    return tuple(value)


def _derive_id(messages: Sequence[Message], taken: Mapping[str, int], copies: dict[str, int]) -> str:
    """An id that is not taken. `copies`: how many ids each content has so far, which a million equal rows need."""
    content = canonical_json([[message.role, message.content] for message in messages])
    derived = candidate = hashlib.sha256(content).hexdigest()[:DERIVED_ID_HEX]
    count = copies.get(derived, 1)
    while candidate in taken:
        count += 1
        candidate = f"{derived}-{count}"
    if count > 1:
        copies[derived] = count
    return candidate


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
