"""What a mirror needs of an OpenAI request, to answer a copy of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthierd.inference.domain import Sampling
from luthierd.inference.http_seat import DEFAULT_COMPLETION_TOKENS

UNDERSTOOD = {
    "frequency_penalty", "logprobs", "max_completion_tokens", "max_tokens", "messages", "metadata", "model", "n",
    "presence_penalty", "prompt", "seed", "service_tier", "stop", "store", "stream", "stream_options", "temperature",
    "top_logprobs", "top_p", "user",
}  # fmt: skip
WITHOUT_EFFECT = {"frequency_penalty": 0, "presence_penalty": 0}
"""These change an answer unless they have this value; a copy would not be of the same request."""


def sampling_of(body: Mapping[str, Any], *, window: int) -> Sampling | None:
    """How a request that was answered wanted its tokens chosen; None if a copy could not be asked the same way."""
    given = {name: value for name, value in body.items() if value is not None}
    if given.keys() - UNDERSTOOD or any(given.get(name, value) != value for name, value in WITHOUT_EFFECT.items()):
        return None
    room = DEFAULT_COMPLETION_TOKENS if "prompt" in given else window
    stop = given.get("stop", ())
    return Sampling(
        max_tokens=int(given.get("max_completion_tokens", given.get("max_tokens", room))),
        temperature=float(given.get("temperature", 1.0)), top_p=float(given.get("top_p", 1.0)),
        seed=given.get("seed"), stop=(stop,) if isinstance(stop, str) else tuple(stop),
    )  # fmt: skip
