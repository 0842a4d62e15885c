"""Prompts, how they are answered, and what an answer is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

BASE_LOADED_ADAPTER = "base"
"""Name of the loaded adapter that answers for a base model alone."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose tokens. `temperature` 0 is greedy."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_k: int = 0
    """0: all tokens."""
    top_logprob_count: int | None = None
    """Alternatives with each token's log-probability; None: no log-probabilities."""
    choice_count: int = 1
    structure: Structure | None = None


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What an answer must be: `kind` is one of the constants, `text` its content, `choices` for CHOICES."""

    kind: str
    text: str = ""
    choices: tuple[str, ...] = ()

    JSON_SCHEMA: ClassVar[str] = "json_schema"
    REGEX: ClassVar[str] = "regex"
    GRAMMAR: ClassVar[str] = "grammar"
    CHOICES: ClassVar[str] = "choices"

    @property
    def field(self) -> str:
        """Where a request has it."""
        return f"sampling.{self.kind}"


class TokenAlternative(NamedTuple):
    """A token that could have been made."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A token that was made or scored; `alternatives` likeliest first."""

    token_id: int
    text: str
    logprob: float
    alternatives: tuple[TokenAlternative, ...] = ()


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class TokenIds:
    """Tokens of the base model's vocabulary, in place of a text."""

    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Who answered."""

    loaded_adapter: str
    deployment_revision: int
    adapter_revision: str
    base_model: str


@dataclass(frozen=True, kw_only=True)
class Finish:
    """How an answer came about. Times count from the arrival of the call."""

    reason: str
    prompt_token_count: int
    completion_token_count: int
    ttft_ms: float
    latency_ms: float
    cached_prompt_token_count: int = 0
    queue_ms: float = 0.0

    @classmethod
    def without_times(cls, prompt_token_count: int, completion_token_count: int) -> Finish:
        """Of work that is whole when it ends: a score, an embedding."""
        return cls(
            reason="stop",
            prompt_token_count=prompt_token_count,
            completion_token_count=completion_token_count,
            ttft_ms=0.0,
            latency_ms=0.0,
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of the answers to a prompt."""

    text: str
    reason: str
    completion_token_count: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer; `choices` has as many as were asked for."""

    choices: tuple[Choice, ...]
    finish: Finish
    origin: Origin
    response_id: str

    @property
    def text(self) -> str:
        """Of the first choice."""
        return self.choices[0].text


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of an answer. The last one of a choice has `reason`, the last one of all has `finish`."""

    delta: str
    origin: Origin
    response_id: str
    token_count: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    choice: int = 0
    reason: str = ""
    finish: Finish | None = None


@dataclass(frozen=True)
class Target:
    """Whose weights answer: a deployment, a base model or an adapter revision, by resource name."""

    kind: str
    name: str

    DEPLOYMENT = "deployment"
    BASE_MODEL = "base_model"
    ADAPTER_REVISION = "adapter_revision"


def cache_salt(tenant: str, loaded_adapter: str) -> str:
    """Keeps prefix caches apart by tenant and weights. The tag keeps it apart from any other salt (vllm 44701)."""
    return "luthier:v1:" + hashlib.sha256(f"{tenant}\0{loaded_adapter}".encode()).hexdigest()
