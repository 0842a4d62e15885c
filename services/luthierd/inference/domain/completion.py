"""Prompts, how they are answered, and what an answer is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from luthierd.errors import InvalidArgumentError
from luthierd.inference.domain.deployment import AdapterRevision

BASE_LOADED_ADAPTER = "base"
"""Name of the loaded adapter that answers for a base model alone."""
ABORTED = "aborted"
"""Finish reason of an answer without an end: cancelled, timed out, or its engine died."""
MAX_CHOICES = 8
MAX_INPUTS = 64
"""Prompts of a batch, texts to embed."""
MAX_MESSAGES = 4096
"""Messages of a conversation; chat templates may take time that grows with the square of their number."""
MAX_SESSION_ID = 128
MAX_STRUCTURE_BYTES, MAX_ARGUMENTS_BYTES = 64 * 1024, 256 * 1024
"""Of a required structure, and of the JSON schemas of all tools."""
MAX_STRUCTURE_CHOICES = 256
MAX_TOOLS = 128
"""OpenAI's limit."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """The required form of an answer: `kind` is one of the constants, `text` its content, or `choices` its contents.

    ARGUMENTS: `choices` are the JSON schemas of tools, one of which the answer satisfies. `source`: the field that a
    refusal names. `is_exact`: what an engine cannot hold an answer to is refused, not ignored.
    """

    kind: str
    text: str = ""
    choices: tuple[str, ...] = ()
    source: str = ""
    is_exact: bool = True

    JSON_SCHEMA: ClassVar[str] = "json_schema"
    REGEX: ClassVar[str] = "regex"
    GRAMMAR: ClassVar[str] = "grammar"
    CHOICES: ClassVar[str] = "choices"
    ARGUMENTS: ClassVar[str] = "arguments"

    @property
    def schemas(self) -> tuple[str, ...]:
        """Its JSON schemas."""
        return {self.JSON_SCHEMA: (self.text,), self.ARGUMENTS: self.choices}.get(self.kind, ())

    @property
    def field(self) -> str:
        return self.source or f"sampling.{self.kind}"


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


class TokenAlternative(NamedTuple):
    """A token that could have been generated."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A token that was generated or scored; `alternatives` most likely first."""

    token_id: int
    text: str
    logprob: float
    alternatives: tuple[TokenAlternative, ...] = ()


class ToolCall(NamedTuple):
    """A call of a tool in an assistant's message. `arguments`: a JSON object as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Turn:
    """One message of a conversation. `name`: of its author; `tool_call_id`: the call that a tool's message answers."""

    role: str
    content: str
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """What the chat template may render of it, besides the role."""
        return (self.content, self.name, self.tool_call_id, *(part for call in self.tool_calls for part in call))


@dataclass(frozen=True)
class TokenIds:
    """Tokens of the base model's vocabulary, in place of a text."""

    ids: tuple[int, ...]


Prompt = str | Sequence[Turn] | TokenIds
"""A text to continue as it is, a conversation to answer through the chat template, or tokens."""


@dataclass(frozen=True)
class Target:
    """Whose weights answer: a deployment, a base model or an adapter revision, by resource name."""

    kind: str
    name: str

    DEPLOYMENT = "deployment"
    BASE_MODEL = "base_model"
    ADAPTER_REVISION = "adapter_revision"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Who answered. `deployment_revision` 0: no deployment; `adapter_revision` empty: the base model alone."""

    loaded_adapter: str
    deployment_revision: int
    adapter_revision: str
    base_model: str

    @classmethod
    def of_revision(cls, revision: AdapterRevision, *, deployment_revision: int = 0) -> Origin:
        """An adapter revision that answers."""
        return cls(
            loaded_adapter=revision.loaded_adapter,
            deployment_revision=deployment_revision,
            adapter_revision=revision.name,
            base_model=revision.base_model.name,
        )


@dataclass(frozen=True, kw_only=True)
class Finish:
    """How an answer ended. Times count from the arrival of the call; 0 for scores and embeddings."""

    finish_reason: str
    prompt_token_count: int
    completion_token_count: int = 0
    ttft_ms: float = 0.0
    latency_ms: float = 0.0
    cached_prompt_token_count: int = 0
    queue_ms: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of the answers to a prompt."""

    text: str
    finish_reason: str
    completion_token_count: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A whole answer with as many `choices` as requested."""

    choices: tuple[Choice, ...]
    finish: Finish
    origin: Origin
    response_id: str

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        return self.choices[0].logprobs


@dataclass
class TokenUsage:
    """Token counts of an answer, updated while it is made."""

    prompt_token_count: int = 0
    completion_token_count: int = 0
    cached_prompt_token_count: int = 0


def check_session_id(session_id: str, *, field: str = "session_id") -> str:
    """The same id. InvalidArgumentError if it is too long."""
    if len(session_id) > MAX_SESSION_ID:
        raise InvalidArgumentError.of_field(
            field, f"it has {len(session_id)} characters, the limit is {MAX_SESSION_ID}"
        )
    return session_id


def cache_salt(tenant: str, loaded_adapter: str) -> str:
    """Separates prefix caches by tenant and weights. The tag separates it from any other salt (vllm 44701)."""
    return "luthier:v1:" + hashlib.sha256(f"{tenant}\0{loaded_adapter}".encode()).hexdigest()
