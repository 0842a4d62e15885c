"""From the rows of a dataset revision to token ids, through the base model's chat template."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from luthierd.errors import FailedPreconditionError, InvalidArgumentError

MAX_NAMED_ROWS = 10


class RowTooLongError(InvalidArgumentError):
    """Rows exceed the context length. They are not truncated: truncated completions teach a model not to stop."""

    reason = "ROW_TOO_LONG"

    def __init__(self, lengths_tokens: dict[str, int], limit_tokens: int) -> None:
        named = ", ".join(f"{row} ({tokens})" for row, tokens in list(lengths_tokens.items())[:MAX_NAMED_ROWS])
        more = f" and {len(lengths_tokens) - MAX_NAMED_ROWS} more" if len(lengths_tokens) > MAX_NAMED_ROWS else ""
        super().__init__(
            f"{len(lengths_tokens)} rows are longer than {limit_tokens} tokens: {named}{more}; shorten or drop them in "
            "curation, or raise max_seq_length where the model's window allows",
            metadata={
                "rows": ",".join(list(lengths_tokens)[:MAX_NAMED_ROWS]),
                "row_count": str(len(lengths_tokens)),
                "limit_tokens": str(limit_tokens),
            },
        )


class EmptySplitError(FailedPreconditionError):
    """A split without rows."""

    reason = "EMPTY_SPLIT"

    def __init__(self, split: str) -> None:
        super().__init__(
            f"the {split} split has no rows; curate the dataset with a larger share for it", metadata={"split": split}
        )


class ChatTemplateError(InvalidArgumentError):
    """The chat template does not render the prompt as a beginning of the whole conversation."""

    reason = "CHAT_TEMPLATE_UNSUITABLE"


@dataclass(frozen=True)
class EncodedRow:
    """A row as the model sees it."""

    id: str
    token_ids: tuple[int, ...]
    completion_start: int
    """Index of the first token that carries loss; all from here on do, the end-of-turn token included."""


def read_rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The rows of a split's JSONL file."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def encode_rows(rows: Sequence[dict[str, Any]], tokenizer: Any, *, limit_tokens: int) -> list[EncodedRow]:
    """Tokenises every row. RowTooLongError names all rows above `limit_tokens`; ChatTemplateError."""
    encoded = [encode_row(row, tokenizer) for row in rows]
    too_long = {row.id: len(row.token_ids) for row in encoded if len(row.token_ids) > limit_tokens}
    if too_long:
        raise RowTooLongError(too_long, limit_tokens)
    return encoded


def encode_row(row: dict[str, Any], tokenizer: Any) -> EncodedRow:
    """Prompt and completion as the model will see them when it serves; the loss ends with the end-of-turn token."""
    messages = row["messages"]
    prompt = list(tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False))
    whole = list(tokenizer.apply_chat_template(messages, return_dict=False))
    if whole[: len(prompt)] != prompt:
        raise ChatTemplateError(
            f"row {row['id']}: the chat template renders a conversation without its last answer differently; use a "
            "base model whose template only appends",
            metadata={"row": str(row["id"])},
        )
    completion = whole[len(prompt) :]
    if tokenizer.eos_token_id in completion:  # templates put a newline after it, which no one samples
        completion = completion[: len(completion) - completion[::-1].index(tokenizer.eos_token_id)]
    return EncodedRow(str(row["id"]), (*prompt, *completion), len(prompt))
