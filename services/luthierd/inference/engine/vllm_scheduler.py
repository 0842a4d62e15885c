"""VLLM's scheduler, with parity checks computed in slices. vLLM's engine process imports it when it starts.

A step computes one token of every answer and the prompts that arrived; the answers wait for all of it. The prompt of a
parity check (some hundred tokens) would delay each of them by 200 to 400 ms on two cores.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from luthierd.inference.engine.slices import BACKGROUND, slice_tokens


class BackgroundRequest(Request):
    """A request that shows the scheduler at most `visible_token_count` of its tokens; 0: all of them."""

    visible_token_count = 0

    @property
    def num_tokens(self) -> int:
        """The tokens that a step may compute."""
        return min(len(self._all_token_ids), self.visible_token_count or len(self._all_token_ids))

    @property
    def num_tokens_with_spec(self) -> int:
        """No speculation: its answer is one token."""
        return self.num_tokens


class SlicingScheduler(Scheduler):
    """Computes at most a slice of background requests per step while there are other requests, else all at once.

    Only a background request's share of a step changes: order, budget and all other requests are handled by vLLM.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._background: dict[str, BackgroundRequest] = {}

    def add_request(self, request: Request) -> None:
        """All requests pass through here, so a marked one becomes a `BackgroundRequest` here."""
        parameters = request.sampling_params
        if parameters and (parameters.extra_args or {}).get(BACKGROUND):
            request.__class__ = BackgroundRequest
            self._background[request.request_id] = request
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Cuts background requests to their slices."""
        self._background = {name: one for name, one in self._background.items() if name in self.requests}
        if self._background:
            count = slice_tokens(
                len(self._background),
                other_count=len(self.requests) - len(self._background),
                other_tokens=self._other_tokens(),
            )
            for one in self._background.values():
                one.visible_token_count = one.num_computed_tokens + count if count else 0
        return super().schedule(*args, **kwargs)

    def _other_tokens(self) -> int:
        """Tokens of the other requests in the next step; an overestimate if a prompt is in the prefix cache."""
        return sum(
            max(one.num_tokens_with_spec + one.num_output_placeholders - one.num_computed_tokens, 1)
            for name, one in self.requests.items()
            if name not in self._background
        )

    def _update_after_schedule(self, scheduler_output: Any) -> None:
        """Called by `schedule` after its choice: shows all tokens again, so that vLLM continues the prompt."""
        for one in self._background.values():
            one.visible_token_count = 0
        super()._update_after_schedule(scheduler_output)


class AsyncSlicingScheduler(SlicingScheduler, AsyncScheduler):
    """The same for vLLM's scheduler that prepares a step while the previous one is computed."""
