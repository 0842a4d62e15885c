"""The gRPC servicers of the trainer: the wire to the use cases and back. They hold no rule of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from luthier.trainer.v1 import adapter_service_pb2 as adapter_api
from luthier.trainer.v1 import adapter_service_pb2_grpc as adapter_rpc
from luthier.trainer.v1 import base_model_service_pb2 as model_api
from luthier.trainer.v1 import base_model_service_pb2_grpc as model_rpc
from luthier.trainer.v1 import training_job_service_pb2 as job_api
from luthier.trainer.v1 import training_job_service_pb2_grpc as job_rpc

from luthierd.jobs.events import watch
from luthierd.jobs.queue import JobQueue
from luthierd.trainer.adapters import Adapters
from luthierd.trainer.api import training_wire as wire
from luthierd.trainer.base_models import BaseModels
from luthierd.trainer.jobs import TrainingJobs

Context = grpc.aio.ServicerContext[Any, Any]


class BaseModelServicer(model_rpc.BaseModelServiceServicer):
    """`luthier.trainer.v1.BaseModelService`."""

    def __init__(self, base_models: BaseModels) -> None:
        self._base_models = base_models

    async def ImportBaseModel(self, request: model_api.ImportBaseModelRequest, context: Context) -> Any:
        model = await self._base_models.import_model(request.base_model_id, path=request.path, package=request.package)
        return model_api.ImportBaseModelResponse(base_model=wire.base_model_to_proto(model))

    async def GetBaseModel(self, request: model_api.GetBaseModelRequest, context: Context) -> Any:
        model = await self._base_models.get(request.name)
        return model_api.GetBaseModelResponse(base_model=wire.base_model_to_proto(model))

    async def ListBaseModels(self, request: model_api.ListBaseModelsRequest, context: Context) -> Any:
        page = await self._base_models.list(request.page_size, request.page_token)
        return model_api.ListBaseModelsResponse(
            base_models=[wire.base_model_to_proto(model) for model in page.items], next_page_token=page.next_page_token
        )


class TrainingJobServicer(job_rpc.TrainingJobServiceServicer):
    """`luthier.trainer.v1.TrainingJobService`."""

    def __init__(self, jobs: TrainingJobs, queue: JobQueue, stopping: asyncio.Event) -> None:
        self._jobs, self._queue, self._stopping = jobs, queue, stopping

    async def CreateTrainingJob(self, request: job_api.CreateTrainingJobRequest, context: Context) -> Any:
        wanted = request.training_job
        job = await self._jobs.create(
            request.parent,
            request.training_job_id,
            adapter=wanted.adapter,
            base_model=wanted.base_model,
            dataset_revision=wanted.dataset_revision,
            config=wire.config_from_proto(wanted.config),
        )
        return job_api.CreateTrainingJobResponse(training_job=wire.job_to_proto(job))

    async def GetTrainingJob(self, request: job_api.GetTrainingJobRequest, context: Context) -> Any:
        job = await self._jobs.get(request.name)
        return job_api.GetTrainingJobResponse(training_job=wire.job_to_proto(job))

    async def ListTrainingJobs(self, request: job_api.ListTrainingJobsRequest, context: Context) -> Any:
        page = await self._jobs.list(request.parent, request.page_size, request.page_token)
        return job_api.ListTrainingJobsResponse(
            training_jobs=[wire.job_to_proto(job) for job in page.items], next_page_token=page.next_page_token
        )

    async def CancelTrainingJob(self, request: job_api.CancelTrainingJobRequest, context: Context) -> Any:
        job = await self._jobs.cancel(request.name)
        return job_api.CancelTrainingJobResponse(training_job=wire.job_to_proto(job))

    async def WatchTrainingJob(
        self, request: job_api.WatchTrainingJobRequest, context: Context
    ) -> AsyncIterator[job_api.WatchTrainingJobResponse]:
        await self._jobs.get(request.name)
        after = request.after_event_id
        async for event in watch(self._queue, request.name, after_event_id=after, stopping=self._stopping):
            yield job_api.WatchTrainingJobResponse(event=wire.event_to_proto(event))


class AdapterServicer(adapter_rpc.AdapterServiceServicer):
    """`luthier.trainer.v1.AdapterService`."""

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters

    async def ListAdapters(self, request: adapter_api.ListAdaptersRequest, context: Context) -> Any:
        page = await self._adapters.list(request.parent, request.page_size, request.page_token)
        return adapter_api.ListAdaptersResponse(
            adapters=[wire.adapter_to_proto(adapter) for adapter in page.items], next_page_token=page.next_page_token
        )

    async def GetAdapterRevision(self, request: adapter_api.GetAdapterRevisionRequest, context: Context) -> Any:
        revision = await self._adapters.get_revision(request.name)
        return adapter_api.GetAdapterRevisionResponse(revision=wire.revision_to_proto(revision))

    async def ListAdapterRevisions(self, request: adapter_api.ListAdapterRevisionsRequest, context: Context) -> Any:
        page = await self._adapters.list_revisions(request.parent, request.page_size, request.page_token)
        return adapter_api.ListAdapterRevisionsResponse(
            revisions=[wire.revision_to_proto(item) for item in page.items], next_page_token=page.next_page_token
        )
