"""What an engine is: a base model in memory, many adapters beside it, and the calls that answer with them."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from luthierd.inference.domain.completion import Sampling, Structure, TokenLogprob, Turn
from luthierd.inference.domain.engine import Stage


@dataclass(frozen=True)
class EngineAdapter:
    """One load of an adapter: `engine_name` and `number` are never used for anything else while the engine lives."""

    engine_name: str
    number: int
    folder: pathlib.Path


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """One prompt for the engine. `prompt_ids` must leave room for an answer."""

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    adapter: EngineAdapter | None
    cache_salt: str


@dataclass(frozen=True)
class EnginePiece:
    """What the engine made of one choice since that choice's last piece."""

    text: str
    token_count: int
    finish_reason: str = ""
    """`stop` or `length`, in the last piece of each choice."""
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of `token_count`, if the sampling asked for them."""
    cached_prompt_token_count: int = 0
    queue_s: float = 0.0
    """From the call of `generate` to the first computation; 0 if the engine does not tell."""


class Engine(Protocol):
    """A running engine that holds one base model and many adapters."""

    @property
    def version(self) -> str:
        """Kind and version, e.g. `vllm 0.32.0 (cpu, float32)`."""

    @property
    def dtype(self) -> str:
        """In what it computes, e.g. `float32`."""

    @property
    def window(self) -> int:
        """Most tokens of prompt and answer together."""

    @property
    def vocabulary_size(self) -> int:
        """Token ids are below it."""

    @property
    def max_rank(self) -> int:
        """Largest LoRA rank it takes."""

    @property
    def start_stages(self) -> tuple[Stage, ...]:
        """What its start consisted of, in order."""

    def tokenize(self, text: str, *, is_prompt: bool = True) -> tuple[int, ...]:
        """A text's tokens, as a prompt of its own; else as they stand within a text. Blocks, like the next three."""

    def token_texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """The text of each token, all below `vocabulary_size`."""

    def check_structure(self, structure: Structure) -> None:
        """InvalidArgumentError, of `structure.field`, if the engine cannot hold an answer to it."""

    def render_chat(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """A conversation's tokens through the base model's chat template, up to where the assistant begins."""

    def generate(self, request: EngineRequest) -> AsyncGenerator[EnginePiece, None]:
        """The answer, piece by piece, with several choices mixed; closing the iterator stops it. EngineDiedError."""

    async def score(
        self,
        prompt_ids: tuple[int, ...],
        completion_ids: tuple[int, ...],
        adapter: EngineAdapter | None,
        *,
        is_background: bool = False,
    ) -> tuple[float, ...]:
        """Log-probability of each token of the completion after the prompt. EngineDiedError.

        `is_background`: takes as long as it takes, so that others' next tokens do not wait for it.
        """

    async def embed(
        self, texts: Sequence[tuple[int, ...]], adapter: EngineAdapter | None
    ) -> tuple[tuple[float, ...], ...]:
        """The mean of the last layer's states over each text's tokens, at length 1. EmbedUnsupportedError."""

    async def load_adapter(self, adapter: EngineAdapter) -> None:
        """AdapterInvalidError if the engine cannot serve the files."""

    async def unload_adapter(self, adapter: EngineAdapter) -> None:
        """Frees the adapter's place. Nobody may use it any more."""

    async def wait_dead(self) -> None:
        """Returns when the engine's process has ended by itself."""

    async def close(self) -> None:
        """Ends the engine."""


StartEngine = Callable[[pathlib.Path], Awaitable[Engine]]
"""Starts an engine on the folder of a base model."""
