"""What engines have in common whose base model is a Hugging Face folder: the tokenizer and the window."""

from __future__ import annotations

import json
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

from luthierd.inference.domain.completion import Turn


class Tokenizing:
    """The tokenizing methods of `Engine`. One thread at a time uses the tokenizer: fast tokenizers reject two."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._tokenizer_lock = tokenizer, threading.Lock()

    def tokenize(self, text: str, *, is_prompt: bool = True) -> tuple[int, ...]:
        with self._tokenizer_lock:
            return tuple(self._tokenizer.encode(text, add_special_tokens=is_prompt))

    def token_texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        with self._tokenizer_lock:
            return tuple(self._tokenizer.decode([token_id]) for token_id in token_ids)

    def render_chat(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        with self._tokenizer_lock:
            ids = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        return tuple(ids)


def window_of(folder: pathlib.Path, max_model_len: int) -> int:
    """`max_model_len`, or the model's own window if that is smaller."""
    config = json.loads((folder / "config.json").read_text())
    return min(max_model_len, int(config.get("max_position_embeddings", max_model_len)))
