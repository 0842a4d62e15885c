"""The body of an OpenAI request: its prompt as text, its cost, and its sampling for a copy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from luthierd.inference.completions.reading import Cost, estimated_tokens
from luthierd.inference.domain.completion import Sampling, Structure, ToolCall, Turn
from luthierd.inference.domain.errors import PromptTooLongError

SHOWN_FIELDS = ("messages", "input", "instructions", "tools", "functions", "documents", "chat_template_kwargs")
"""What the chat template can show the model."""
DEFAULT_COMPLETION_TOKENS = 16
"""`max_tokens` of /v1/completions if a request does not set it (OpenAI's API, and vLLM's)."""

COPIED_FIELDS = {
    "frequency_penalty",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "model",
    "n",
    "presence_penalty",
    "prompt",
    "response_format",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "structured_outputs",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "user",
}
WITHOUT_EFFECT = {"frequency_penalty": 0, "presence_penalty": 0}
"""With any other value these change an answer in a way that a copy cannot repeat."""
STRUCTURES = {"json": Structure.JSON_SCHEMA, "regex": Structure.REGEX, "grammar": Structure.GRAMMAR}
"""vLLM's fields of `structured_outputs`; `choice` is a list."""


class NotCopiedError(Exception):
    """The mirror gets no copy. `reason` is one of a few words: a label of a metric."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def prompt_of(body: Mapping[str, Any]) -> str | tuple[Turn, ...] | None:
    """A request's prompt as text; None if it is tokens, several prompts, or has more than text."""
    prompt = body.get("prompt")
    if "messages" not in body:
        if isinstance(prompt, list) and len(prompt) == 1:
            (prompt,) = prompt
        return prompt if isinstance(prompt, str) else None
    messages = body["messages"] if isinstance(body["messages"], list) else ()
    turns = [_turn_of(message) if isinstance(message, dict) else None for message in messages]
    return tuple(turns) if turns and None not in turns else None  # type: ignore[arg-type]


def _turn_of(message: Mapping[str, Any]) -> Turn | None:
    """None if it has more than text and calls of functions. The engine's application checked its form."""
    calls = message.get("tool_calls") or ()
    content = _text_of(message.get("content") or ("" if calls else None))
    try:
        made = tuple(
            ToolCall(str(call["id"]), str(call["function"]["name"]), str(call["function"]["arguments"]))
            for call in calls
        )
    except (KeyError, TypeError):
        return None
    if content is None:
        return None
    name, tool_call_id = (str(message.get(key) or "") for key in ("name", "tool_call_id"))
    return Turn(str(message.get("role")), content, name, made, tool_call_id)


def _text_of(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part.get("text") if isinstance(part, dict) else None for part in content]
    return "\n".join(texts) if texts and all(isinstance(text, str) for text in texts) else None  # type: ignore[arg-type]


def cost_of(body: Mapping[str, Any], window: int) -> Cost:
    """What a body asks for, its tokens by estimate. PromptTooLongError for tokens that do not fit into the window.

    A body that is not well formed asks for little; the engine's application refuses it.
    """
    texts, token_counts = [], []
    for prompt in _prompts(body):
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
            token_counts.append(len(prompt))
        else:
            texts.append(tuple(_strings(prompt)))
    if token_counts and max(token_counts) > window:
        raise PromptTooLongError(max(token_counts), window)
    estimates = token_counts + [min(window, estimated_tokens(one)) for one in texts]
    limits = (body.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"))
    room = DEFAULT_COMPLETION_TOKENS if "prompt" in body else window
    max_tokens = next((limit for limit in limits if isinstance(limit, int)), room)
    choice_count = body["n"] if isinstance(body.get("n"), int) else 1
    answers = sum(max(1, min(max_tokens, window - count)) for count in estimates)
    return Cost(
        prompts=tuple(texts),
        prompt_token_count=sum(estimates),
        answer_token_count=max(1, choice_count) * answers,
        choice_count=max(1, choice_count),
    )


def _prompts(body: Mapping[str, Any]) -> list[Any]:
    """The prompts, each a text, tokens, or all that the chat template shows of a conversation."""
    prompt = body.get("prompt")
    if "prompt" not in body:
        return [[body.get(name) for name in SHOWN_FIELDS]]
    if isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int)):
        return prompt
    return [prompt]


def _strings(value: Any) -> Iterator[str]:
    """All texts within a JSON value, names included."""
    open_values = [value]
    while open_values:
        one = open_values.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list):
            open_values += one
        elif isinstance(one, dict):
            open_values += [*one, *one.values()]


def sampling_of(body: Mapping[str, Any], *, window: int) -> Sampling:
    """The sampling of an answered request, for a copy. NotCopiedError: `tools`, `format` or `sampling`."""
    given = {name: value for name, value in body.items() if value is not None}
    if given.get("tools"):
        raise NotCopiedError("tools")  # the chat template shows them to the model, and the answer is parsed for calls
    if given.keys() - COPIED_FIELDS or any(given.get(name, value) != value for name, value in WITHOUT_EFFECT.items()):
        raise NotCopiedError("sampling")
    room = DEFAULT_COMPLETION_TOKENS if "prompt" in given else window
    stop = given.get("stop", ())
    return Sampling(
        max_tokens=int(given.get("max_completion_tokens", given.get("max_tokens", room))),
        temperature=float(given.get("temperature", 1.0)),
        top_p=float(given.get("top_p", 1.0)),
        top_k=max(0, int(given.get("top_k", 0))),
        seed=given.get("seed"),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        structure=_structure_of(given),
    )


def _structure_of(given: Mapping[str, Any]) -> Structure | None:
    """The required form of the answer. NotCopiedError for a form that `Structure` does not have, like `json_object`."""
    kind, wanted = given.get("response_format"), given.get("structured_outputs")
    if kind is not None and not isinstance(kind, dict):
        raise NotCopiedError("format")
    if kind is not None and kind.get("type") == "text":
        kind = None
    if kind is None and wanted is None:
        return None
    if kind is not None and wanted is None and kind.get("type") == "json_schema":
        wanted = {"json": (kind.get("json_schema") or {}).get("schema")}
    elif kind is not None or not isinstance(wanted, dict):
        raise NotCopiedError("format")
    fields = {name: value for name, value in wanted.items() if value is not None}
    if len(fields) != 1:
        raise NotCopiedError("format")
    ((name, value),) = fields.items()
    if name == "choice":
        return Structure(kind=Structure.CHOICES, choices=tuple(value))
    if name not in STRUCTURES:
        raise NotCopiedError("format")
    return Structure(kind=STRUCTURES[name], text=value if isinstance(value, str) else json.dumps(value))
