"""The arm behind an OpenAI-compatible endpoint: its queries go there, all others to the inference service."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.models.chat_endpoint import ChatEndpoint
from luthierd.evaluator.models.generate import ChatModel, Reply


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
