"""What a mirror needs of an OpenAI request, to answer a copy of it; or why it cannot be asked the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from luthierd.inference.domain.completion import Sampling, Structure
from luthierd.inference.http.slot import DEFAULT_COMPLETION_TOKENS

UNDERSTOOD = {
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
"""These change an answer unless they have this value; a copy would not be of the same request."""
STRUCTURES = {"json": Structure.JSON_SCHEMA, "regex": Structure.REGEX, "grammar": Structure.GRAMMAR}
"""vLLM's fields of `structured_outputs`; `choice` is a list."""


class NotCopiedError(Exception):
    """The mirror gets no copy. `reason` is one of a few words: a label of a metric."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def sampling_of(body: Mapping[str, Any], *, window: int) -> Sampling:
    """How a request that was answered wanted its tokens chosen. NotCopiedError: `tools`, `format` or `sampling`."""
    given = {name: value for name, value in body.items() if value is not None}
    if given.get("tools"):
        raise NotCopiedError("tools")  # the chat template shows them to the model, and an answer is read as calls
    if given.keys() - UNDERSTOOD or any(given.get(name, value) != value for name, value in WITHOUT_EFFECT.items()):
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
    """What the answer had to be. NotCopiedError for what `Structure` has no form for, as `json_object`."""
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
