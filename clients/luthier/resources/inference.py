"""Answers to prompts and conversations (the inference service). Every answer carries its `Origin`: whose weights."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack, cast

from luthier import names
from luthier.errors import ConfigError, InvalidNameError
from luthier.inference.v1 import inference_service_pb2 as api
from luthier.inference.v1 import inference_service_pb2_grpc as rpc
from luthier.resources.resource import Resource

Turn = api.Message | Mapping[str, Any]
"""A message, as in the contract or as OpenAI's clients write it: `role` with `content` (a text, or parts of text) and,
where they belong, `name`, `tool_calls` and `tool_call_id`.
"""
TokenIds = api.TokenIds


class SamplingOptions(TypedDict, total=False):
    """How to choose tokens; what is left out, or None, takes the default of `Sampling` in the contract."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    stop: Sequence[str]
    top_logprob_count: int | None
    """Log-probabilities of the tokens, each with so many alternatives, 0 to 20."""
    choice_count: int | None
    """Answers to make; only of `generate` and `chat`."""
    json_schema: str | Mapping[str, Any] | None
    """The answer must be JSON that this schema allows. At most one of this and the next three."""
    regex: str | None
    grammar: str | None
    choices: Sequence[str] | None


class Inference(Resource["rpc.InferenceServiceAsyncStub"]):
    """`target`: the name of a deployment, a base model or an adapter revision (the last needs `inference.evaluate`).

    `session_id` keeps a conversation on one loaded adapter while traffic is split. A stream is retried only before its
    first message; to stop one early close the iterator, and the service stops computing.
    """

    _make_stub = rpc.InferenceServiceStub

    async def generate(
        self,
        target: str | api.Target,
        prompt: str,
        *,
        session_id: str = "",
        timeout_s: float | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> api.GenerateResponse:
        """Continues a text as it is; no template is applied."""
        request = api.GenerateRequest(
            target=target_of(target), prompt=prompt, sampling=_sampling(sampling), session_id=session_id
        )
        return await self._call(self._stub.Generate, request, timeout_s)

    def generate_stream(
        self,
        target: str | api.Target,
        prompt: str,
        *,
        session_id: str = "",
        timeout_s: float | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> AsyncIterator[api.GenerateStreamResponse]:
        """Continues a text piece by piece: deltas, then one message with `finish`."""
        request = api.GenerateStreamRequest(
            target=target_of(target), prompt=prompt, sampling=_sampling(sampling), session_id=session_id
        )
        return self._transport.stream(self._stub.GenerateStream, request, timeout_s=timeout_s)

    async def chat(
        self,
        target: str | api.Target,
        messages: str | Sequence[Turn],
        *,
        session_id: str = "",
        timeout_s: float | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> api.ChatResponse:
        """Answers a conversation through the base model's chat template; a text is one turn of the user."""
        request = api.ChatRequest(
            target=target_of(target), messages=_turns(messages), sampling=_sampling(sampling), session_id=session_id
        )
        return await self._call(self._stub.Chat, request, timeout_s)

    def chat_stream(
        self,
        target: str | api.Target,
        messages: str | Sequence[Turn],
        *,
        session_id: str = "",
        timeout_s: float | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> AsyncIterator[api.ChatStreamResponse]:
        """Answers a conversation piece by piece: deltas, then one message with `finish`."""
        request = api.ChatStreamRequest(
            target=target_of(target), messages=_turns(messages), sampling=_sampling(sampling), session_id=session_id
        )
        return self._transport.stream(self._stub.ChatStream, request, timeout_s=timeout_s)

    async def batch_generate(
        self,
        target: str | api.Target,
        inputs: Sequence[str | Sequence[Turn]],
        *,
        session_id: str = "",
        timeout_s: float | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> api.BatchGenerateResponse:
        """Answers 1 to 64 texts (as they are) or conversations with one loaded adapter.

        `results` are in the inputs' order, each with `answer` or, if it failed, `error`.
        """
        request = api.BatchGenerateRequest(
            target=target_of(target),
            inputs=[
                api.BatchInput(prompt=one)
                if isinstance(one, str)
                else api.BatchInput(conversation=api.Conversation(messages=_turns(one)))
                for one in inputs
            ],
            sampling=_sampling(sampling),
            session_id=session_id,
        )
        return await self._call(self._stub.BatchGenerate, request, timeout_s)

    async def score(
        self,
        target: str | api.Target,
        prompt: str | Sequence[Turn] | TokenIds,
        completion: str | TokenIds,
        *,
        session_id: str = "",
        timeout_s: float | None = None,
    ) -> api.ScoreResponse:
        """Log-probabilities of a completion's tokens after a text (as it is), a conversation or tokens."""
        request = api.ScoreRequest(target=target_of(target), session_id=session_id)
        if isinstance(prompt, str):
            request.prompt_text = prompt
        elif isinstance(prompt, TokenIds):
            request.prompt_token_ids.ids.extend(prompt.ids)
        else:
            request.conversation.messages.extend(_turns(prompt))
        if isinstance(completion, str):
            request.completion_text = completion
        else:
            request.completion_token_ids.ids.extend(completion.ids)
        return await self._call(self._stub.Score, request, timeout_s)

    async def embed(
        self,
        target: str | api.Target,
        texts: Sequence[str],
        *,
        session_id: str = "",
        timeout_s: float | None = None,
    ) -> api.EmbedResponse:
        """Vectors of 1 to 64 texts. FailedPreconditionError, ENGINE_CANNOT_EMBED, from an engine that makes none."""
        request = api.EmbedRequest(target=target_of(target), texts=texts, session_id=session_id)
        return await self._call(self._stub.Embed, request, timeout_s)


def target_of(target: str | api.Target) -> api.Target:
    """A `Target` from a resource name, by its kind."""
    if isinstance(target, api.Target):
        return target
    kind = names.parse(target).kind
    if kind == "deployment":
        return api.Target(deployment=target)
    if kind == "base_model":
        return api.Target(base_model=target)
    if kind == "adapter_revision":
        return api.Target(adapter_revision=target)
    raise InvalidNameError(
        f"'{target}' names a {kind.replace('_', ' ')}, which cannot answer; "
        "name a deployment, a base model or an adapter revision",
        metadata={"name": target, "kind": kind},
    )


def _sampling(options: SamplingOptions) -> api.Sampling:
    fields = {name: value for name, value in options.items() if value is not None}
    if (schema := fields.get("json_schema")) is not None and not isinstance(schema, str):
        fields["json_schema"] = json.dumps(schema)
    if (choices := options.get("choices")) is not None:
        fields["choices"] = api.Choices(texts=choices)
    return api.Sampling(**cast("dict[str, Any]", fields))


def _turns(messages: str | Sequence[Turn]) -> list[api.Message]:
    if isinstance(messages, str):
        return [api.Message(role="user", content=messages)]
    return [one if isinstance(one, api.Message) else _message(one) for one in messages]


def _message(turn: Mapping[str, Any]) -> api.Message:
    """ConfigError for a part that is not text: a message must not lose a picture in silence."""
    content = turn.get("content") or ""
    parts = [] if isinstance(content, str) else list(content)
    if any(part.get("type", "text") != "text" for part in parts):
        raise ConfigError("a message has a part that is not text; only parts {'type': 'text', 'text': ...} are taken")
    return api.Message(
        role=turn["role"],
        content=content if isinstance(content, str) else "",
        parts=[api.ContentPart(text=part["text"]) for part in parts],
        name=turn.get("name") or "",
        tool_calls=[api.ToolCall(id=call["id"], **_function(call)) for call in turn.get("tool_calls") or ()],
        tool_call_id=turn.get("tool_call_id") or "",
    )


def _function(call: Mapping[str, Any]) -> dict[str, str]:
    """Name and arguments of a call; OpenAI's clients have them one level deeper."""
    function = call.get("function", call)
    arguments = function["arguments"]
    return {
        "name": function["name"],
        "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
    }
