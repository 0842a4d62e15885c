"""Reads answers out of OpenAI's responses as they pass, for the log of answers. What passes is not changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from luthierd.inference.domain.completion import Finish, Turn
from luthierd.inference.feedback.capture import Recording
from luthierd.inference.http.exchange import Send, Usage

MAX_WHOLE_BYTES = 16 * 1024 * 1024
"""A response that is not a stream, or a line of one, is read up to here; log-probabilities may make it longer."""
UNREAD = "unread"
"""Finish reason of an answer that was sent, and was too long to be read."""


def prompt_of(body: Mapping[str, Any]) -> str | tuple[Turn, ...] | None:
    """A request's prompt as text; None if it is tokens, several prompts, or holds more than text."""
    prompt = body.get("prompt")
    if "messages" not in body:
        if isinstance(prompt, list) and len(prompt) == 1:
            (prompt,) = prompt
        return prompt if isinstance(prompt, str) else None
    turns = []
    for message in body["messages"] if isinstance(body["messages"], list) else ():
        content = _text_of(message.get("content")) if isinstance(message, dict) else None
        if content is None:
            return None
        turns.append(Turn(str(message.get("role")), content))
    return tuple(turns) or None


def _text_of(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part.get("text") if isinstance(part, dict) else None for part in content]
    return "\n".join(texts) if texts and all(isinstance(text, str) for text in texts) else None  # type: ignore[arg-type]


class AnswerTap:
    """Passes a response on, and tells `recording` the first choice's text. `finish` it. A refusal is not recorded.

    `keeps_text`: the text is kept in `answer`, too.
    """

    def __init__(self, send: Send, recording: Recording, *, keeps_text: bool = False) -> None:
        self._keeps_text, self._kept = keeps_text, list[str]()
        self._send, self._recording = send, recording
        self._rest, self._is_stream, self._is_ok, self._reason = b"", False, False, ""
        recording.is_discarded = True

    async def __call__(self, message: Mapping[str, Any]) -> None:
        await self._send(message)
        if message["type"] == "http.response.start":
            headers = {name.lower(): value for name, value in message.get("headers", ())}
            self._is_stream = headers.get(b"content-type", b"").startswith(b"text/event-stream")
            self._is_ok = message["status"] == 200
            self._recording.is_discarded = not self._is_ok
        elif self._is_ok:
            self._read(message.get("body", b""), is_last=not message.get("more_body"))

    def finish(self, usage: Usage, *, ttft_s: float, latency_s: float) -> None:
        """The response was sent. One without an end of its answer was cut off."""
        if self._reason:
            outcome = Finish(
                reason=self._reason,
                prompt_token_count=usage.prompt_token_count,
                completion_token_count=usage.completion_token_count,
                ttft_ms=ttft_s * 1000,
                latency_ms=latency_s * 1000,
            )
            self._recording.finish(outcome)

    @property
    def answer(self) -> str | None:
        """The first choice's text, if it was kept and came to its end."""
        return "".join(self._kept) if self._keeps_text and self._reason not in ("", UNREAD) else None

    def _read(self, data: bytes, *, is_last: bool) -> None:
        if self._reason == UNREAD:
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
            self._rest, self._reason = b"", UNREAD
            self._recording.drop_text()

    def _take(self, data: bytes, *, within: str) -> None:
        """One JSON document of the engine's: a chunk, or the whole response. What cannot be read is no answer."""
        try:
            document = json.loads(data)
        except ValueError:
            return
        if not isinstance(document, dict):
            return
        for choice in document.get("choices", ()):
            if choice.get("index") == 0:
                text = choice.get("text") or (choice.get(within) or {}).get("content")
                self._recording.add(text or "")
                if self._keeps_text:
                    self._kept.append(text or "")
                self._reason = choice.get("finish_reason") or self._reason
