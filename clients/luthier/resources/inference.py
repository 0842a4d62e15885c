"""Answers to prompts and conversations (the inference service). Every answer carries its `Origin`: whose weights."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cached_property

from luthier import names
from luthier.errors import InvalidNameError
from luthier.inference.v1 import inference_service_pb2 as api
from luthier.inference.v1 import inference_service_pb2_grpc as rpc
from luthier.transport import Transport

Turn = api.Message | Mapping[str, str]


class Inference:
    """`target`: the name of a deployment, a base model or an adapter revision (the last needs `inference.evaluate`).

    Sampling arguments left at None take the defaults of `Sampling` in the contract. A stream is retried only before its
    first message; to stop one early close the iterator, and the service stops computing.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.InferenceServiceAsyncStub:
        return rpc.InferenceServiceStub(self._transport.channel)

    async def generate(
        self,
        target: str | api.Target,
        prompt: str,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> api.GenerateResponse:
        """Continues a text as it is; no template is applied."""
        chosen = _sampling(max_tokens, temperature, top_p, seed, stop)
        request = api.GenerateRequest(target=target_of(target), prompt=prompt, sampling=chosen)
        return await self._transport.unary(self._stub.Generate, request, timeout_s=timeout_s)

    def generate_stream(
        self,
        target: str | api.Target,
        prompt: str,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> AsyncIterator[api.GenerateStreamResponse]:
        """Continues a text piece by piece: deltas, then one message with `finish`."""
        chosen = _sampling(max_tokens, temperature, top_p, seed, stop)
        request = api.GenerateStreamRequest(target=target_of(target), prompt=prompt, sampling=chosen)
        return self._transport.stream(self._stub.GenerateStream, request, timeout_s=timeout_s)

    async def chat(
        self,
        target: str | api.Target,
        messages: str | Sequence[Turn],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> api.ChatResponse:
        """Answers a conversation through the base model's chat template; a text is one turn of the user."""
        chosen = _sampling(max_tokens, temperature, top_p, seed, stop)
        request = api.ChatRequest(target=target_of(target), messages=_turns(messages), sampling=chosen)
        return await self._transport.unary(self._stub.Chat, request, timeout_s=timeout_s)

    def chat_stream(
        self,
        target: str | api.Target,
        messages: str | Sequence[Turn],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> AsyncIterator[api.ChatStreamResponse]:
        """Answers a conversation piece by piece: deltas, then one message with `finish`."""
        chosen = _sampling(max_tokens, temperature, top_p, seed, stop)
        request = api.ChatStreamRequest(target=target_of(target), messages=_turns(messages), sampling=chosen)
        return self._transport.stream(self._stub.ChatStream, request, timeout_s=timeout_s)


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


def _sampling(
    max_tokens: int | None, temperature: float | None, top_p: float | None, seed: int | None, stop: Sequence[str]
) -> api.Sampling:
    return api.Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop)


def _turns(messages: str | Sequence[Turn]) -> list[api.Message]:
    if isinstance(messages, str):
        return [api.Message(role="user", content=messages)]
    return [m if isinstance(m, api.Message) else api.Message(role=m["role"], content=m["content"]) for m in messages]
