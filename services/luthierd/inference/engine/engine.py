"""What an engine is: one base model in memory, many adapters on it, and the calls that use them."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Send

from luthierd.inference.domain.completion import Sampling, Structure, TokenLogprob, TokenUsage, Turn
from luthierd.inference.domain.engine import Stage


@dataclass(frozen=True)
class EngineAdapter:
    """One load of an adapter: `engine_name` and `number` are never reused while the engine lives."""

    engine_name: str
    number: int
    folder: pathlib.Path


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """One prompt. `prompt_ids` must leave room for an answer."""

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    adapter: EngineAdapter | None
    cache_salt: str
    tenant: str = ""
    """Whose share of a step its prompt takes; empty: nobody's."""


@dataclass(frozen=True, kw_only=True)
class EngineDelta:
    """What the engine generated for one choice since its last delta."""

    text: str
    token_count: int
    finish_reason: str = ""
    """`stop` or `length`, in the last delta of each choice."""
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of `token_count`, if the sampling requests them."""
    cached_prompt_token_count: int = 0
    queue_s: float = 0.0
    """From the call of `generate` to the first computation; 0 if unknown."""


class EngineSlot(Protocol):
    """A request's place in the engine's batch."""

    answer_token_count: int
    """Updated while the request runs."""


class TakeSlot(Protocol):
    """How an application waits for a slot before each request to the engine."""

    def __call__(
        self, *, prompt_token_count: int, max_answer_token_count: int, slot_count: int
    ) -> contextlib.AbstractAsyncContextManager[EngineSlot]:
        """`max_answer_token_count`: of all `slot_count` choices together."""


@dataclass(frozen=True, kw_only=True)
class OpenAICall:
    """A request of the OpenAI protocol whose model is resolved and whose fields are checked.

    `route`: its path, in OpenAI's form. `model`: the name in the answer. `usage` counts the tokens while it is made.
    """

    route: str
    body: Mapping[str, Any]
    model: str
    adapter: EngineAdapter | None
    cache_salt: str
    response_id: str
    usage: TokenUsage
    tenant: str
    take_slot: TakeSlot


class OpenAIApplication(Protocol):
    """Answers requests of the OpenAI protocol."""

    async def __call__(self, call: OpenAICall, send: Send) -> None:
        """Sends the answer of the adapter's weights, or of the base model's, as an ASGI application does.

        A LuthierError stands for every refusal and failure, also within a stream; nothing is sent for it. However the
        call ends, it stops all computation for the request.
        """


class Engine(Protocol):
    """A running engine with one base model and many adapters."""

    version: str
    """Kind and version, e.g. `vllm 0.32.0 (cpu, float32)`."""
    dtype: str
    """Data type of the computation, e.g. `float32`."""
    window: int
    """Maximum tokens of prompt and answer together."""
    vocabulary_size: int
    """Token ids are below it."""
    max_characters_per_token: int
    """No token has more."""
    cache_token_count: int
    """Tokens of running requests that fit into its memory; 0: unknown."""
    max_rank: int
    """Maximum LoRA rank."""
    start_stages: tuple[Stage, ...]
    """The stages of its start, in order."""

    def tokenize(self, text: str, *, is_prompt: bool = True) -> tuple[int, ...]:
        """A text's tokens as a prompt, or as a part of a text. Blocks, like the next two."""

    def token_texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """The text of each token, all below `vocabulary_size`."""

    def render_chat(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """A conversation's tokens through the base model's chat template, up to where the assistant begins.

        InvalidArgumentError, of `messages`, if the template refuses it.
        """

    async def check_structure(self, structure: Structure, *, tenant: str) -> None:
        """InvalidArgumentError, of `structure.field`, if the engine cannot constrain an answer to it.

        Takes bounded time; the checks of one `tenant` wait for each other.
        """

    def generate(self, request: EngineRequest) -> AsyncGenerator[EngineDelta, None]:
        """The answer, its choices interleaved; closing the iterator stops it. EngineDiedError."""

    async def score(
        self,
        prompt_ids: tuple[int, ...],
        completion_ids: tuple[int, ...],
        adapter: EngineAdapter | None,
        *,
        is_background: bool = False,
        tenant: str = "",
    ) -> tuple[float, ...]:
        """Log-probability of each token of the completion after the prompt. EngineDiedError.

        `is_background`: may take longer, so that the next tokens of other requests do not wait for it.
        """

    async def embed(
        self, texts: Sequence[tuple[int, ...]], adapter: EngineAdapter | None
    ) -> tuple[tuple[float, ...], ...]:
        """The mean of the last layer's states over each text's tokens, at length 1. EmbedUnsupportedError."""

    async def load_adapter(self, adapter: EngineAdapter) -> None:
        """AdapterInvalidError if the engine cannot serve the files."""

    async def unload_adapter(self, adapter: EngineAdapter) -> None:
        """Frees the adapter's place. No request may use it any more."""

    async def openai_application(self) -> OpenAIApplication:
        """HttpUnsupportedError if the engine has none."""

    async def wait_dead(self) -> None:
        """Returns when the engine's process has ended by itself."""

    async def close(self) -> None:
        """Ends the engine."""


StartEngine = Callable[[pathlib.Path], Awaitable[Engine]]
"""Starts an engine on the folder of a base model."""
