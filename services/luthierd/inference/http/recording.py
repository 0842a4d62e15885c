"""Reads answers from OpenAI responses as they pass, for the log of answers. What passes is unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Send

from luthierd.inference.completions.recording import Recording
from luthierd.inference.domain.completion import Finish, TokenUsage

MAX_WHOLE_BYTES = 16 * 1024 * 1024
"""The size up to which a whole response, or a line of a stream, is read; log-probabilities may exceed it."""
UNREAD = "unread"
"""Finish reason of an answer that was sent but was too long to be read."""


class AnswerTap:
    """Passes a response on, and records the text of its first choice. Then `finish` it. A refusal is not recorded.

    `keeps_text`: the text is kept in `answer`, too.
    """

    def __init__(self, send: Send, recording: Recording, *, keeps_text: bool = False) -> None:
        self._keeps_text, self._kept = keeps_text, list[str]()
        self._send, self._recording = send, recording
        self._rest, self._is_stream, self._is_ok, self._finish_reason = b"", False, False, ""
        recording.is_discarded = True

    async def __call__(self, message: Message) -> None:
        await self._send(message)
        if message["type"] == "http.response.start":
            content_type = Headers(raw=[(key.lower(), value) for key, value in message.get("headers", ())])
            self._is_stream = content_type.get("content-type", "").startswith("text/event-stream")
            self._is_ok = message["status"] == 200
            self._recording.is_discarded = not self._is_ok
        elif self._is_ok:
            self._read(message.get("body", b""), is_last=not message.get("more_body"))

    def finish(self, usage: TokenUsage, *, ttft_s: float, latency_s: float) -> None:
        """The response was sent. If its answer has no end, it was cut off."""
        if self._finish_reason:
            outcome = Finish(
                finish_reason=self._finish_reason,
                prompt_token_count=usage.prompt_token_count,
                completion_token_count=usage.completion_token_count,
                ttft_ms=ttft_s * 1000,
                latency_ms=latency_s * 1000,
            )
            self._recording.finish(outcome)

    @property
    def answer(self) -> str | None:
        """The text of the first choice, if it was kept and complete."""
        return "".join(self._kept) if self._keeps_text and self._finish_reason not in ("", UNREAD) else None

    def _read(self, data: bytes, *, is_last: bool) -> None:
        if self._finish_reason == UNREAD:
            return
        self._rest += data
        if self._is_stream:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                if line.startswith(b"data: {"):
                    self._take(line.removeprefix(b"data: "), within="delta")
        elif is_last:
            self._take(self._rest, within="message")
        if len(self._rest) > MAX_WHOLE_BYTES:
            self._rest, self._finish_reason = b"", UNREAD
            self._recording.drop_text()

    def _take(self, data: bytes, *, within: str) -> None:
        """One JSON document of the engine: a chunk, or the whole response. What cannot be parsed is ignored."""
        try:
            document = json.loads(data)
        except ValueError:
            return
        if not isinstance(document, dict):
            return
        for choice in document.get("choices", ()):
            if choice.get("index") == 0:
                text = choice.get("text") or (choice.get(within) or {}).get("content")
                self._add(text or "")
                self._finish_reason = choice.get("finish_reason") or self._finish_reason
        if document.get("type") == "response.output_text.delta":
            self._add(document["delta"])
        elif document.get("type") == "response.completed":
            self._end_response(document["response"])
        elif document.get("object") == "response":
            self._add("".join(_output_texts(document)))
            self._end_response(document)

    def _add(self, text: str) -> None:
        self._recording.add(text)
        if self._keeps_text:
            self._kept.append(text)

    def _end_response(self, response: dict[str, Any]) -> None:
        self._finish_reason = "stop" if response.get("status") == "completed" else "length"


def _output_texts(response: dict[str, Any]) -> Iterator[str]:
    """The texts of a whole answer of /v1/responses."""
    for item in response.get("output", ()):
        for part in item.get("content") or ():
            if part.get("type") == "output_text":
                yield part["text"]
