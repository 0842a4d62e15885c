"""From the rows of a dataset revision to token ids, through the base model's chat template, and to padded batches."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from luthierd.errors import FailedPreconditionError, InvalidArgumentError

MAX_NAMED_ROWS = 10
IGNORED = -100
"""Label of positions without loss, as in PyTorch."""


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
    """A prompt and its completion as the model sees them. See `recipes.recipe.Example`."""

    id: str
    token_ids: tuple[int, ...]
    completion_start: int
    """Index of the first token with loss; all that follow have loss, too, including the end-of-turn token."""

    @property
    def token_count(self) -> int:
        return len(self.token_ids)

    @property
    def label_count(self) -> int:
        return len(self.token_ids) - self.completion_start

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.token_ids[: self.completion_start]


@dataclass(frozen=True)
class Batch:
    """Padded rows. Padding is on the right; `labels_BT` is IGNORED wherever there is no loss."""

    token_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    labels_BT: torch.Tensor


def read_rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The rows of a split's JSONL file."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def encode_rows(rows: Sequence[Mapping[str, Any]], tokenizer: Any, *, limit_tokens: int) -> list[EncodedRow]:
    """Tokenises every row. RowTooLongError names all rows above `limit_tokens`; ChatTemplateError."""
    encoded = [encode_row(row, tokenizer) for row in rows]
    too_long = {row.id: row.token_count for row in encoded if row.token_count > limit_tokens}
    if too_long:
        raise RowTooLongError(too_long, limit_tokens)
    return encoded


def encode_row(row: Mapping[str, Any], tokenizer: Any) -> EncodedRow:
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


def collate(rows: Sequence[EncodedRow]) -> Batch:
    """One batch, as wide as its longest row. Tensors int64 [B, T]. Padding is token 0, without attention and loss."""
    width = max(row.token_count for row in rows)
    token_ids_BT = torch.zeros((len(rows), width), dtype=torch.long)
    attention_mask_BT = torch.zeros((len(rows), width), dtype=torch.long)
    labels_BT = torch.full((len(rows), width), IGNORED)
    for index, row in enumerate(rows):
        token_ids_BT[index, : row.token_count] = torch.tensor(row.token_ids)
        attention_mask_BT[index, : row.token_count] = 1
        completion = slice(row.completion_start, row.token_count)
        labels_BT[index, completion] = token_ids_BT[index, completion]
    return Batch(token_ids_BT, attention_mask_BT, labels_BT)
