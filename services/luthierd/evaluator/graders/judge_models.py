"""Who can judge: an endpoint of the operator's list, or a model of our own inference service."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from luthierd.evaluator.domain.evaluation import adapter_of
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.graders.judge import ITSELF, JudgeError
from luthierd.evaluator.models.chat_endpoint import ChatEndpoint, Completion
from luthierd.evaluator.models.endpoints import Endpoint

FORM = "Answer with one JSON object that fits this JSON Schema, and nothing else:\n"
"""Small models find the form of an answer only with an example of it: the schema is shown, and asked for."""


@dataclass(frozen=True)
class EndpointJudge:
    """An OpenAI-compatible server. The schema stands in the prompt: not every server takes `response_format`."""

    endpoint: Endpoint
    client: ChatEndpoint
    model: str
    max_tokens: int

    @property
    def name(self) -> str:
        return self.endpoint.name

    @property
    def parameters(self) -> Mapping[str, Any]:
        model = self.model or self.endpoint.model
        return {"url": self.endpoint.url, "model": model, "max_tokens": self.max_tokens, "temperature": 0.0}

    async def generate(self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None) -> Completion:
        """One answer; see `ChatEndpoint.chat`."""
        return await self.client.chat(
            with_form(messages, schema), max_tokens=self.max_tokens, model=self.model, temperature=0.0
        )


@dataclass(frozen=True)
class JudgeReply:
    """An answer of our inference service, and which adapter revision gave it (empty: the base model)."""

    completion: Completion
    adapter_revision: str


class Chat(Protocol):
    """Our inference service, in the tenant's name; see `peers.SdkChat`."""

    def __call__(
        self, target: str, messages: Sequence[Message], *, max_tokens: int, json_schema: str | None
    ) -> Awaitable[JudgeReply]: ...


@dataclass(frozen=True)
class InferenceJudge:
    """A base model or a deployment of our own; the engine makes the answer fit the schema. `generators` are the
    adapters under test: their answers do not count, even if one was promoted since the evaluation began.
    """

    target: str
    digest: str
    generators: Collection[str]
    max_tokens: int
    chat: Chat

    @property
    def name(self) -> str:
        return self.target

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {"target": self.target, "digest": self.digest, "max_tokens": self.max_tokens, "temperature": 0.0}

    async def generate(self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None) -> Completion:
        """One greedy answer. JudgeError, JUDGE_IS_GENERATOR."""
        form = json.dumps(schema) if schema else None
        found = await self.chat(self.target, with_form(messages, schema), max_tokens=self.max_tokens, json_schema=form)
        if found.adapter_revision and adapter_of(found.adapter_revision) in self.generators:
            raise JudgeError(ITSELF)
        return found.completion


def with_form(messages: Sequence[Message], schema: Mapping[str, Any] | None) -> list[Message]:
    """The conversation with the wanted form added to its last turn."""
    if schema is None:
        return list(messages)
    *before, last = messages
    return [*before, Message(last.role, f"{last.content}\n\n{FORM}{json.dumps(schema)}")]
