"""The gRPC servicer of prompts: the wire to the use cases and back."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator

from luthier.evaluator.v1 import prompt_service_pb2 as pb
from luthier.evaluator.v1 import prompt_service_pb2_grpc as rpc

from luthierd.evaluator.api import prompt_wire as wire
from luthierd.evaluator.run.prompts import Prompts
from luthierd.jobs.queue import JobQueue
from luthierd.names import PROMPT
from luthierd.rpc.contract import Context
from luthierd.rpc.deletion import delete
from luthierd.rpc.job_resource import JobResource
from luthierd.storage.deletions import Deletions


class PromptServicer(rpc.PromptServiceServicer):
    """`luthier.evaluator.v1.PromptService`."""

    def __init__(self, prompts: Prompts, queue: JobQueue, stopping: asyncio.Event, deletions: Deletions) -> None:
        self._prompts, self._deletions = prompts, deletions
        self._jobs = JobResource(prompts, queue, stopping, to_proto=wire.prompt_to_proto)

    async def CreatePrompt(self, request: pb.CreatePromptRequest, context: Context) -> pb.CreatePromptResponse:
        created = await self._prompts.create(
            request.parent,
            target=wire.target_from_proto(request.prompt),
            dataset_revision=request.prompt.dataset_revision,
            search=wire.search_from_proto(request.prompt.search),
            prompt_id=request.prompt_id,
        )
        return self._jobs.answer(pb.CreatePromptResponse, created)

    async def GetPrompt(self, request: pb.GetPromptRequest, context: Context) -> pb.GetPromptResponse:
        return await self._jobs.get(request, pb.GetPromptResponse)

    async def ListPrompts(self, request: pb.ListPromptsRequest, context: Context) -> pb.ListPromptsResponse:
        return await self._jobs.list(request, pb.ListPromptsResponse)

    async def CancelPrompt(self, request: pb.CancelPromptRequest, context: Context) -> pb.CancelPromptResponse:
        return await self._jobs.cancel(request, pb.CancelPromptResponse)

    async def WatchPrompt(
        self, request: pb.WatchPromptRequest, context: Context
    ) -> AsyncIterator[pb.WatchPromptResponse]:
        budget = (await self._prompts.get(request.name)).search.query_budget
        to_proto = functools.partial(wire.event_to_proto, query_budget=budget)
        async for response in self._jobs.watch(request, pb.WatchPromptResponse, to_proto):
            yield response

    async def DeletePrompt(self, request: pb.DeletePromptRequest, context: Context) -> pb.DeletePromptResponse:
        return await delete(self._deletions, PROMPT, request, pb.DeletePromptResponse)
