from __future__ import annotations

import pathlib

import pytest
from luthierd.trainer.blocks.encoding import (
    IGNORED,
    ChatTemplateError,
    EncodedRow,
    RowTooLongError,
    collate,
    encode_row,
    encode_rows,
    read_rows,
)
from luthierd.trainer.blocks.model import load_tokenizer
from support.toy_rows import rows_jsonl, toy_rows


def test_the_completion_starts_after_the_loaded_adapter_prompt_and_ends_the_turn(tiny_llama: pathlib.Path) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    (row,) = toy_rows(1)
    encoded = encode_row(row, tokenizer)
    prompt, completion = (
        encoded.token_ids[: encoded.completion_start],
        encoded.token_ids[encoded.completion_start :],
    )
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(completion) == "even<|im_end|>"


def test_too_long_rows_are_all_named_with_their_length(tiny_llama: pathlib.Path) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    rows = toy_rows(6)
    for index in (2, 4):
        rows[index]["messages"][0]["content"] = "x" * 200
    with pytest.raises(RowTooLongError, match=r"train-2 \(2\d\d\), train-4 \(2\d\d\)") as caught:
        encode_rows(rows, tokenizer, limit_tokens=120)
    assert caught.value.metadata["rows"] == "train-2,train-4"
    assert caught.value.metadata["limit_tokens"] == "120"


def test_a_template_that_rewrites_the_prompt_is_refused(tiny_llama: pathlib.Path) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    with pytest.raises(ChatTemplateError, match="train-0"):
        encode_row(toy_rows(1)[0], tokenizer)


def test_rows_are_read_as_they_were_stored(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(rows_jsonl(toy_rows(3)))
    assert list(read_rows(path)) == toy_rows(3)


def test_padding_and_prompt_carry_no_label() -> None:
    rows = [EncodedRow("a", (7, 8, 9), 2), EncodedRow("b", (4, 5, 6, 3, 2), 1)]
    batch = collate(rows)
    assert batch.token_ids_BT.tolist() == [[7, 8, 9, 0, 0], [4, 5, 6, 3, 2]]
    assert batch.attention_mask_BT.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    no = IGNORED
    assert batch.labels_BT.tolist() == [[no, no, 9, no, no], [no, 5, 6, 3, 2]]
    assert [row.label_count for row in rows] == [1, 4]
    assert [row.token_count for row in rows] == [3, 5]
