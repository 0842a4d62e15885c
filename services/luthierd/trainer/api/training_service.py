"""The gRPC servicers of the trainer: the wire to the use cases and back. They contain no rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from luthier.trainer.v1 import adapter_service_pb2 as adapter_api
from luthier.trainer.v1 import adapter_service_pb2_grpc as adapter_rpc
from luthier.trainer.v1 import base_model_service_pb2 as model_api
from luthier.trainer.v1 import base_model_service_pb2_grpc as model_rpc
from luthier.trainer.v1 import training_job_service_pb2 as job_api
from luthier.trainer.v1 import training_job_service_pb2_grpc as job_rpc

from luthierd.jobs.queue import JobQueue
from luthierd.names import ADAPTER, ADAPTER_REVISION, BASE_MODEL, TRAINING_JOB
from luthierd.rpc.contract import Context
from luthierd.rpc.deletion import delete
from luthierd.rpc.job_resource import JobResource
from luthierd.rpc.wire import page_to_proto
from luthierd.storage.deletions import Deletions
from luthierd.trainer.adapters import Adapters
from luthierd.trainer.api import training_wire as wire
from luthierd.trainer.base_models import BaseModels
from luthierd.trainer.jobs import TrainingJobs


class BaseModelServicer(model_rpc.BaseModelServiceServicer):
    """`luthier.trainer.v1.BaseModelService`."""

    def __init__(self, base_models: BaseModels, deletions: Deletions) -> None:
        self._base_models, self._deletions = base_models, deletions

    async def ImportBaseModel(
        self, request: model_api.ImportBaseModelRequest, context: Context
    ) -> model_api.ImportBaseModelResponse:
        model = await self._base_models.import_model(
            request.base_model_id,
            path=request.path,
            package=request.package,
            repository=request.hub.repository,
            revision=request.hub.revision,
        )
        return model_api.ImportBaseModelResponse(base_model=wire.base_model_to_proto(model))

    async def GetBaseModel(
        self, request: model_api.GetBaseModelRequest, context: Context
    ) -> model_api.GetBaseModelResponse:
        model = await self._base_models.get(request.name)
        return model_api.GetBaseModelResponse(base_model=wire.base_model_to_proto(model))

    async def ListBaseModels(
        self, request: model_api.ListBaseModelsRequest, context: Context
    ) -> model_api.ListBaseModelsResponse:
        page = await self._base_models.list(request.page_size, request.page_token)
        return page_to_proto(model_api.ListBaseModelsResponse, page, wire.base_model_to_proto)

    async def DeleteBaseModel(
        self, request: model_api.DeleteBaseModelRequest, context: Context
    ) -> model_api.DeleteBaseModelResponse:
        return await delete(self._deletions, BASE_MODEL, request, model_api.DeleteBaseModelResponse)


class TrainingJobServicer(job_rpc.TrainingJobServiceServicer):
    """`luthier.trainer.v1.TrainingJobService`."""

    def __init__(self, jobs: TrainingJobs, queue: JobQueue, stopping: asyncio.Event, deletions: Deletions) -> None:
        self._jobs, self._deletions = jobs, deletions
        self._resource = JobResource(jobs, queue, stopping, to_proto=wire.job_to_proto)

    async def CreateTrainingJob(
        self, request: job_api.CreateTrainingJobRequest, context: Context
    ) -> job_api.CreateTrainingJobResponse:
        wanted = request.training_job
        job = await self._jobs.create(
            request.parent,
            request.training_job_id,
            adapter=wanted.adapter,
            base_model=wanted.base_model,
            dataset_revision=wanted.dataset_revision,
            config=wire.config_from_proto(wanted.config),
        )
        return self._resource.answer(job_api.CreateTrainingJobResponse, job)

    async def GetTrainingJob(
        self, request: job_api.GetTrainingJobRequest, context: Context
    ) -> job_api.GetTrainingJobResponse:
        return await self._resource.get(request, job_api.GetTrainingJobResponse)

    async def ListTrainingJobs(
        self, request: job_api.ListTrainingJobsRequest, context: Context
    ) -> job_api.ListTrainingJobsResponse:
        return await self._resource.list(request, job_api.ListTrainingJobsResponse)

    async def CancelTrainingJob(
        self, request: job_api.CancelTrainingJobRequest, context: Context
    ) -> job_api.CancelTrainingJobResponse:
        return await self._resource.cancel(request, job_api.CancelTrainingJobResponse)

    def WatchTrainingJob(
        self, request: job_api.WatchTrainingJobRequest, context: Context
    ) -> AsyncIterator[job_api.WatchTrainingJobResponse]:
        return self._resource.watch(request, job_api.WatchTrainingJobResponse, wire.event_to_proto)

    async def DeleteTrainingJob(
        self, request: job_api.DeleteTrainingJobRequest, context: Context
    ) -> job_api.DeleteTrainingJobResponse:
        return await delete(self._deletions, TRAINING_JOB, request, job_api.DeleteTrainingJobResponse)


class AdapterServicer(adapter_rpc.AdapterServiceServicer):
    """`luthier.trainer.v1.AdapterService`."""

    def __init__(self, adapters: Adapters, deletions: Deletions) -> None:
        self._adapters, self._deletions = adapters, deletions

    async def ListAdapters(
        self, request: adapter_api.ListAdaptersRequest, context: Context
    ) -> adapter_api.ListAdaptersResponse:
        page = await self._adapters.list(request.parent, request.page_size, request.page_token)
        return page_to_proto(adapter_api.ListAdaptersResponse, page, wire.adapter_to_proto)

    async def GetAdapterRevision(
        self, request: adapter_api.GetAdapterRevisionRequest, context: Context
    ) -> adapter_api.GetAdapterRevisionResponse:
        revision = await self._adapters.get_revision(request.name)
        return adapter_api.GetAdapterRevisionResponse(revision=wire.revision_to_proto(revision))

    async def ListAdapterRevisions(
        self, request: adapter_api.ListAdapterRevisionsRequest, context: Context
    ) -> adapter_api.ListAdapterRevisionsResponse:
        page = await self._adapters.list_revisions(request.parent, request.page_size, request.page_token)
        return page_to_proto(adapter_api.ListAdapterRevisionsResponse, page, wire.revision_to_proto)

    async def ReadAdapterRevision(
        self, request: adapter_api.ReadAdapterRevisionRequest, context: Context
    ) -> adapter_api.ReadAdapterRevisionResponse:
        piece = await self._adapters.read(
            request.name, request.path, offset_bytes=request.offset_bytes, limit_bytes=request.limit_bytes
        )
        return adapter_api.ReadAdapterRevisionResponse(
            data=piece.data, size_bytes=piece.size_bytes, sha256=piece.sha256
        )

    async def DeleteAdapter(
        self, request: adapter_api.DeleteAdapterRequest, context: Context
    ) -> adapter_api.DeleteAdapterResponse:
        return await delete(self._deletions, ADAPTER, request, adapter_api.DeleteAdapterResponse)

    async def DeleteAdapterRevision(
        self, request: adapter_api.DeleteAdapterRevisionRequest, context: Context
    ) -> adapter_api.DeleteAdapterRevisionResponse:
        return await delete(self._deletions, ADAPTER_REVISION, request, adapter_api.DeleteAdapterRevisionResponse)
