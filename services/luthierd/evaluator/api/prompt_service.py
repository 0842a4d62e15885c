"""The gRPC servicer of prompts: the wire to the use cases and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from luthier.evaluator.v1 import prompt_service_pb2 as pb
from luthier.evaluator.v1 import prompt_service_pb2_grpc as rpc

from luthierd.evaluator.api import prompt_wire as wire
from luthierd.evaluator.run.prompts import Prompts
from luthierd.jobs.events import watch
from luthierd.jobs.queue import JobQueue

Context = grpc.aio.ServicerContext[Any, Any]


class PromptServicer(rpc.PromptServiceServicer):
    """`luthier.evaluator.v1.PromptService`."""

    def __init__(self, prompts: Prompts, queue: JobQueue, stopping: asyncio.Event) -> None:
        self._prompts = prompts
        self._queue = queue
        self._stopping = stopping

    async def CreatePrompt(self, request: pb.CreatePromptRequest, context: Context) -> Any:
        created = await self._prompts.create(
            request.parent,
            target=wire.target_from_proto(request.prompt),
            dataset_revision=request.prompt.dataset_revision,
            search=wire.search_from_proto(request.prompt.search),
            prompt_id=request.prompt_id,
        )
        return pb.CreatePromptResponse(prompt=wire.prompt_to_proto(created))

    async def GetPrompt(self, request: pb.GetPromptRequest, context: Context) -> Any:
        return pb.GetPromptResponse(prompt=wire.prompt_to_proto(await self._prompts.get(request.name)))

    async def ListPrompts(self, request: pb.ListPromptsRequest, context: Context) -> Any:
        page = await self._prompts.list(request.parent, request.page_size, request.page_token)
        prompts = [wire.prompt_to_proto(item) for item in page.items]
        return pb.ListPromptsResponse(prompts=prompts, next_page_token=page.next_page_token)

    async def CancelPrompt(self, request: pb.CancelPromptRequest, context: Context) -> Any:
        return pb.CancelPromptResponse(prompt=wire.prompt_to_proto(await self._prompts.cancel(request.name)))

    async def WatchPrompt(
        self, request: pb.WatchPromptRequest, context: Context
    ) -> AsyncIterator[pb.WatchPromptResponse]:
        budget = (await self._prompts.get(request.name)).search.query_budget
        after = request.after_event_id
        async for event in watch(self._queue, request.name, after_event_id=after, stopping=self._stopping):
            yield pb.WatchPromptResponse(event=wire.event_to_proto(event, query_budget=budget))
