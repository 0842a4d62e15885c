"""What engines have in common whose base model is a Hugging Face folder: the tokenizer and the window."""

from __future__ import annotations

import contextlib
import copy
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import TemplateError

from luthierd.errors import InvalidArgumentError
from luthierd.inference.domain.completion import Turn
from luthierd.inference.engine.chat_templates import template_messages


class Tokenizing:
    """The tokenizing methods of `Engine`. Each thread borrows another tokenizer: fast ones reject two threads.

    There are as many as were ever in use at a time; who calls them bounds that.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._template, self._idle = tokenizer, [copy.deepcopy(tokenizer)]
        self.max_characters_per_token = max(map(len, tokenizer.get_vocab()))

    @contextlib.contextmanager
    def _tokenizer(self) -> Iterator[Any]:
        try:
            borrowed = self._idle.pop()
        except IndexError:
            borrowed = copy.deepcopy(self._template)
        try:
            yield borrowed
        finally:
            self._idle.append(borrowed)

    def tokenize(self, text: str, *, is_prompt: bool = True) -> tuple[int, ...]:
        with self._tokenizer() as tokenizer:
            return tuple(tokenizer.encode(text, add_special_tokens=is_prompt))

    def token_texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        with self._tokenizer() as tokenizer:
            return tuple(tokenizer.decode([token_id]) for token_id in token_ids)

    def render_chat(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        try:
            with self._tokenizer() as tokenizer:
                ids = tokenizer.apply_chat_template(
                    template_messages(turns), add_generation_prompt=True, tokenize=True, return_dict=False
                )
        except (TemplateError, TypeError, ValueError) as error:  # there is none, or it refuses roles or their order
            raise InvalidArgumentError.of_field(
                "messages", f"the base model's chat template cannot render them: {error}"
            ) from error
        return tuple(ids)


def window_of(folder: pathlib.Path, max_model_len: int) -> int:
    """`max_model_len`, or the model's own window if that is smaller."""
    config = json.loads((folder / "config.json").read_text())
    return min(max_model_len, int(config.get("max_position_embeddings", max_model_len)))
