"""Reading and choosing rows."""

from __future__ import annotations

import json

import pytest
from luthierd.evaluator.dataset.rows import DatasetRowError, parse_rows, select_rows
from support.evaluator_material import row, rows


def line(**changes: object) -> str:
    content: dict[str, object] = {
        "id": "a",
        "group": "g",
        "label": "l",
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}],
    }
    return json.dumps({**content, **changes})


def test_the_last_message_is_the_reference_and_hidden_from_the_prompt() -> None:
    [parsed] = parse_rows((line() + "\n").encode(), split="holdout")
    assert parsed.reference == "!"
    assert [message.content for message in parsed.prompt] == ["?"]


def test_a_line_that_is_no_row_is_named() -> None:
    for bad in ["{", "[]", line(messages=[]), line(messages=[{"role": "user", "content": "?"}] * 2)]:
        with pytest.raises(DatasetRowError) as caught:
            parse_rows(f"{line()}\n{bad}\n".encode(), split="holdout")
        assert caught.value.metadata["line"] == "2"


def test_a_line_separator_inside_a_text_does_not_end_the_row() -> None:
    text = line(messages=[{"role": "user", "content": "one\u2028two\x85three"}, {"role": "assistant", "content": "!"}])
    [parsed] = parse_rows(json.dumps(json.loads(text), ensure_ascii=False).encode(), split="holdout")
    assert parsed.question == "one\u2028two\x85three"


def test_a_limit_takes_every_group_before_it_takes_a_second_row_of_one() -> None:
    many = [row(i, group="big") for i in range(50)] + [row(100 + i, group=f"small-{i}") for i in range(9)]
    chosen = select_rows(many, 10, seed=0)
    assert len({one.group for one in chosen}) == 10
    assert chosen == select_rows(many, 10, seed=0)


def test_no_limit_and_a_large_limit_take_all() -> None:
    assert select_rows(rows(5), 0, seed=0) == rows(5) == select_rows(rows(5), 9, seed=0)


def test_a_row_s_slices_are_read_and_none_is_the_default() -> None:
    [parsed] = parse_rows(line(slices=["challenge:vague", "long"]).encode(), split="holdout")
    assert parsed.slices == ("challenge:vague", "long")
    [plain] = parse_rows(line().encode(), split="holdout")
    assert plain.slices == ()
