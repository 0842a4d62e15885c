"""Prompts and the search for them (the evaluator service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property

from luthier.errors import UnavailableError
from luthier.evaluator.v1 import evaluation_pb2
from luthier.evaluator.v1 import prompt_pb2 as pb
from luthier.evaluator.v1 import prompt_service_pb2 as api
from luthier.evaluator.v1 import prompt_service_pb2_grpc as rpc
from luthier.resources.reading import finished, pages, wait_for
from luthier.transport import Transport, new_request_id

FINAL_STATES = frozenset(
    {
        evaluation_pb2.EVALUATION_STATE_SUCCEEDED,
        evaluation_pb2.EVALUATION_STATE_FAILED,
        evaluation_pb2.EVALUATION_STATE_CANCELLED,
    }
)


class Prompts:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.PromptServiceAsyncStub:
        return rpc.PromptServiceStub(self._transport.channel)

    async def create(
        self,
        parent: str,
        *,
        target: str,
        dataset_revision: str,
        search: pb.PromptSearch | None = None,
        prompt_id: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.Prompt:
        """Queues the search for a prompt of `target`, a base model or an adapter revision."""
        prompt = pb.Prompt(dataset_revision=dataset_revision, search=search)
        if target.startswith("tenants/"):
            prompt.adapter_revision = target
        else:
            prompt.base_model = target
        request = api.CreatePromptRequest(
            parent=parent, prompt=prompt, prompt_id=prompt_id, request_id=request_id or new_request_id()
        )
        return (await self._transport.unary(self._stub.CreatePrompt, request, timeout_s=timeout_s)).prompt

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.Prompt:
        request = api.GetPromptRequest(name=name)
        return (await self._transport.unary(self._stub.GetPrompt, request, timeout_s=timeout_s)).prompt

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.Prompt]:
        """The prompts of `tenants/{t}`, newest first."""

        async def fetch(token: str) -> tuple[Sequence[pb.Prompt], str]:
            request = api.ListPromptsRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListPrompts, request)
            return page.prompts, page.next_page_token

        return pages(fetch)

    async def cancel(self, name: str, *, request_id: str = "", timeout_s: float | None = None) -> pb.Prompt:
        """Asks a search to end; a finished one is returned unchanged."""
        request = api.CancelPromptRequest(name=name, request_id=request_id or new_request_id())
        return (await self._transport.unary(self._stub.CancelPrompt, request, timeout_s=timeout_s)).prompt

    def watch(
        self, name: str, *, after_event_id: int = 0, on_away: Callable[[UnavailableError], None] | None = None
    ) -> AsyncIterator[pb.PromptEvent]:
        """Yields the search's events until it is final, across restarts of the service; on_away is told of each."""

        async def is_over() -> bool:
            return (await self.get(name)).state in FINAL_STATES

        return self._transport.watch(
            self._stub.WatchPrompt,
            lambda after: api.WatchPromptRequest(name=name, after_event_id=after),
            lambda message: message.event,
            after_event_id=after_event_id,
            is_final=lambda event: event.HasField("state") and event.state in FINAL_STATES,
            is_over=is_over,
            on_away=on_away,
        )

    async def wait(self, name: str, *, timeout_s: float | None = None, poll_interval_s: float = 0.5) -> pb.Prompt:
        """Waits until the search has SUCCEEDED. Raises `JobFailedError`, `JobCancelledError` or `TimeoutError`."""
        prompt = await wait_for(
            lambda: self.get(name),
            lambda found: found.state in FINAL_STATES,
            poll_interval_s=poll_interval_s,
            timeout_s=timeout_s,
            retry=self._transport.retry,
        )
        return finished(
            prompt,
            failed=prompt.state == evaluation_pb2.EVALUATION_STATE_FAILED,
            cancelled=prompt.state == evaluation_pb2.EVALUATION_STATE_CANCELLED,
        )
