"""Answers are read out of OpenAI's responses while they pass, in whatever parts they arrive."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from luthierd.inference.domain.completion import TokenUsage, Turn
from luthierd.inference.feedback.response_log import Recording
from luthierd.inference.http import recording as http_recording
from luthierd.inference.http.body import prompt_of
from luthierd.inference.http.recording import AnswerTap

CHUNKS = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
    {"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "stop"}]},
    {"choices": [{"index": 0, "delta": {"content": "Grüß"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"content": "e"}, "finish_reason": "length"}]},
    {"choices": []},
]
LINES = [*(json.dumps(chunk, ensure_ascii=False).encode() for chunk in CHUNKS), b"[DONE]"]
STREAM = b"".join(b"data: " + line + b"\n\n" for line in LINES)


async def passed(body: bytes, *, kind: str, status: int = 200, part_bytes: int = 7) -> tuple[Recording, bytes]:
    """What was recorded of a response in small parts, and what came out."""
    sent: list[bytes] = []

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message.get("body", b""))

    recording = Recording(wants_text=True)
    tap = AnswerTap(send, recording)
    await tap({"type": "http.response.start", "status": status, "headers": [(b"Content-Type", kind.encode())]})
    for start in range(0, len(body), part_bytes):
        await tap({"type": "http.response.body", "body": body[start : start + part_bytes], "more_body": True})
    await tap({"type": "http.response.body", "body": b""})
    tap.finish(TokenUsage(3, 2), ttft_s=0.5, latency_s=1.0)
    return recording, b"".join(sent)


async def test_a_stream_in_any_parts_gives_the_first_choice_and_passes_unchanged() -> None:
    recording, sent = await passed(STREAM, kind="text/event-stream; charset=utf-8")
    assert (recording.completion, sent) == ("Grüße", STREAM)
    assert recording.outcome is not None
    found = recording.outcome
    assert (found.finish_reason, found.prompt_token_count, found.completion_token_count, found.ttft_ms) == (
        "length",
        3,
        2,
        500,
    )


def as_response(text: str, status: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text}]
    return {"object": "response", "status": status, "output": [{"type": "message", "content": content}]}


async def test_the_answer_of_a_response_is_read_whole_and_out_of_its_events() -> None:
    events = [
        {"type": "response.created", "response": {}},
        {"type": "response.output_text.delta", "delta": "Grüß"},
        {"type": "response.output_text.delta", "delta": "e"},
        {"type": "response.completed", "response": as_response("Grüße", "incomplete")},
    ]
    stream = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
    streamed, _ = await passed(stream, kind="text/event-stream")
    whole, _ = await passed(json.dumps(as_response("Grüße", "completed")).encode(), kind="application/json")
    assert streamed.completion == whole.completion == "Grüße"
    assert (streamed.outcome and streamed.outcome.finish_reason) == "length"
    assert (whole.outcome and whole.outcome.finish_reason) == "stop"


async def test_a_stream_that_broke_off_is_no_answer() -> None:
    recording, _ = await passed(STREAM[:-250], kind="text/event-stream")
    assert (recording.outcome, recording.is_discarded) == (None, False)


@pytest.mark.parametrize("choice", [{"message": {"content": "yes"}}, {"text": "yes"}])
async def test_a_whole_response_gives_its_first_choice(choice: dict[str, Any]) -> None:
    body = {"choices": [{"index": 0, "finish_reason": "stop"} | choice]}
    recording, _ = await passed(json.dumps(body).encode(), kind="application/json")
    assert recording.completion == "yes"
    assert recording.outcome is not None


async def test_a_refusal_is_not_recorded() -> None:
    recording, _ = await passed(b'{"error": {}}', kind="application/json", status=400)
    assert recording.is_discarded


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"choices": []}'])
async def test_what_cannot_be_read_passes_and_is_no_answer(body: bytes) -> None:
    recording, sent = await passed(body, kind="application/json")
    assert (recording.outcome, sent) == (None, body)


async def test_a_response_beyond_the_bound_passes_and_its_text_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_recording, "MAX_WHOLE_BYTES", 50)
    body = json.dumps({"choices": [{"index": 0, "message": {"content": "x" * 100}}]}).encode()
    recording, sent = await passed(body, kind="application/json")
    assert (recording.completion, sent) == (None, body)
    assert recording.outcome is not None
    assert recording.outcome.finish_reason == "unread"


def test_prompts_are_read_as_text_or_not_at_all() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert prompt_of({"messages": [{"role": "user", "content": parts}]}) == (Turn("user", "a\nb"),)
    assert prompt_of({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}) is None
    assert prompt_of({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}) is None
    assert prompt_of({"messages": "hello"}) is None
    assert (prompt_of({"prompt": "p"}), prompt_of({"prompt": ["p"]})) == ("p", "p")
    assert prompt_of({"prompt": [1, 2]}) is prompt_of({"prompt": ["a", "b"]}) is prompt_of({}) is None
