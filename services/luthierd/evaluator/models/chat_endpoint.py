"""One question to an OpenAI-compatible server (`POST .../chat/completions`), and what may go wrong, by name."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from luthierd.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.models.endpoints import Endpoint
from luthierd.evaluator.models.generate import ChatModel, Reply

# A chat answer of 8,192 tokens is some 40 kB; what is larger is not an answer.
MAX_REPLY_BYTES = 4 * 1024 * 1024
MAX_RETRY_AFTER_S = 60.0


class EndpointAwayError(UnavailableError):
    """The server cannot be reached or answers 5xx."""

    reason = "ENDPOINT_AWAY"


class EndpointBusyError(ResourceExhaustedError):
    """The server answers 429."""

    reason = "ENDPOINT_BUSY"


class EndpointSlowError(DeadlineExceededError):
    """The server did not answer within the endpoint's `timeout_s`."""

    reason = "ENDPOINT_SLOW"


class EndpointRefusedError(FailedPreconditionError):
    """The server rejects our key or does not know the model, so every request would fail."""

    reason = "ENDPOINT_REFUSED"


class EndpointRejectedError(InvalidArgumentError):
    """The server rejects this request (too long, filtered)."""

    reason = "ENDPOINT_REJECTED"


class EndpointUnreadableError(InternalError):
    """The server's answer is not a chat completion."""

    reason = "ENDPOINT_UNREADABLE"


@dataclass(frozen=True)
class Completion:
    """What the server said. Token counts are 0 where it gave none."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    model: str


class ChatEndpoint:
    """A client of one endpoint; close it. It does not retry: the caller knows how long it may wait."""

    def __init__(self, endpoint: Endpoint, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._endpoint = endpoint
        headers = {"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._client = httpx.AsyncClient(
            timeout=endpoint.timeout_s, headers=headers, transport=transport, follow_redirects=False
        )

    async def close(self) -> None:
        """Closes its connections."""
        await self._client.aclose()

    async def chat(
        self, messages: Sequence[Message], *, max_tokens: int, model: str = "", **parameters: Any
    ) -> Completion:
        """One answer; `parameters` are passed on (temperature, seed, response_format). Raises the errors above."""
        body = {
            "model": model or self._endpoint.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in messages],
            "max_tokens": max_tokens,
        } | parameters
        try:
            # httpx's own limit counts between two bytes: a server that sends one a second would never end.
            async with asyncio.timeout(self._endpoint.timeout_s):
                data = await self._post(body)
        except (TimeoutError, httpx.TimeoutException):
            raise EndpointSlowError(
                f"endpoint {self._name} did not answer within {self._endpoint.timeout_s:g} s; raise its timeout_s",
                metadata={"endpoint": self._name, "timeout_s": f"{self._endpoint.timeout_s:g}"},
            ) from None
        except httpx.HTTPError as error:
            raise EndpointAwayError(
                f"endpoint {self._name} cannot be reached ({type(error).__name__}); start it or correct its url",
                metadata={"endpoint": self._name, "cause": type(error).__name__},
            ) from None
        return self._completion(data)

    @property
    def _name(self) -> str:
        return self._endpoint.name

    async def _post(self, body: Mapping[str, Any]) -> bytes:
        async with self._client.stream("POST", f"{self._endpoint.url}/chat/completions", json=body) as response:
            data = await self._read(response)
            if response.status_code != httpx.codes.OK:
                raise self._refusal(response)
            return data

    async def _read(self, response: httpx.Response) -> bytes:
        data = bytearray()
        async for piece in response.aiter_bytes():
            data += piece
            if len(data) > MAX_REPLY_BYTES:
                raise self._unreadable(f"it is larger than {MAX_REPLY_BYTES} bytes")
        return bytes(data)

    def _refusal(self, response: httpx.Response) -> Exception:
        """The error of a status. Never the body: servers repeat the prompt in it, and some the key."""
        status = response.status_code
        metadata = {"endpoint": self._name, "status": str(status)}
        said = f"endpoint {self._name} answers {status}"
        if status == httpx.codes.TOO_MANY_REQUESTS:
            return EndpointBusyError(f"{said}; ask less at a time", metadata=metadata, retry_after_s=_wait(response))
        if status == httpx.codes.REQUEST_TIMEOUT or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            return EndpointAwayError(f"{said}; see its log", metadata=metadata, retry_after_s=_wait(response))
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND):
            return EndpointRefusedError(f"{said}; check its url, model and key", metadata=metadata)
        return EndpointRejectedError(f"{said}; the request does not suit it", metadata=metadata)

    def _completion(self, data: bytes) -> Completion:
        try:
            found = json.loads(data)
            choice = found["choices"][0]
            text = choice["message"]["content"] or ""
            if not isinstance(text, str):
                raise TypeError("content")
            usage: Mapping[str, Any] = found.get("usage") or {}
            return Completion(
                text=text,
                finish_reason=str(choice.get("finish_reason") or ""),
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                completion_tokens=int(usage.get("completion_tokens") or 0),
                model=str(found.get("model") or self._endpoint.model),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            raise self._unreadable(type(error).__name__) from None

    def _unreadable(self, problem: str) -> EndpointUnreadableError:
        return EndpointUnreadableError(
            f"the answer of endpoint {self._name} is not a chat completion ({problem}); check its url",
            metadata={"endpoint": self._name, "problem": problem},
        )


class EndpointArmModel:
    """See `generate.ChatModel`. The answer comes in one piece, so that its time to first token is its whole time."""

    def __init__(
        self,
        inference: ChatModel,
        endpoint: ChatEndpoint,
        *,
        model: str,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inference = inference
        self._endpoint = endpoint
        self._model = model
        self._now = now

    async def generate(
        self, arm: Arm, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Reply:
        """One answer. What `ChatEndpoint.chat` raises."""
        sampling: dict[str, Any] = {"temperature": temperature} | ({"seed": seed} if temperature else {})
        if arm is not Arm.ENDPOINT:
            return await self._inference.generate(arm, messages, max_tokens=max_tokens, **sampling)
        asked = self._now()
        found = await self._endpoint.chat(messages, max_tokens=max_tokens, model=self._model, **sampling)
        return Reply(
            text=found.text,
            ttft_s=self._now() - asked,
            prompt_tokens=found.prompt_tokens,
            completion_tokens=found.completion_tokens,
            finish_reason=found.finish_reason,
            loaded_adapter=found.model,
        )


def _wait(response: httpx.Response) -> float:
    """Seconds of Retry-After, bounded; 1 without one."""
    try:
        seconds = float(response.headers.get("retry-after", "1"))
    except ValueError:
        return 1.0
    return min(MAX_RETRY_AFTER_S, max(0.1, seconds)) if math.isfinite(seconds) else 1.0
