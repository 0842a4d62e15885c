"""The tokenizing half of `engine_host.Engine`, for engines whose base model comes with a Hugging Face tokenizer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from luthierd.inference.domain.completion import Turn


class Tokenizing:
    """Uses the tokenizer from one thread at a time: fast tokenizers refuse two."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._tokenizer_lock = tokenizer, threading.Lock()

    def tokenize(self, text: str, *, is_prompt: bool = True) -> tuple[int, ...]:
        """A text's tokens."""
        with self._tokenizer_lock:
            return tuple(self._tokenizer.encode(text, add_special_tokens=is_prompt))

    def token_texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """The text of each token."""
        with self._tokenizer_lock:
            return tuple(self._tokenizer.decode([token_id]) for token_id in token_ids)

    def render_chat(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """A conversation's tokens through the model's own chat template."""
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        with self._tokenizer_lock:
            ids = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        return tuple(ids)
