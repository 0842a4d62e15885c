"""The gRPC servicer of adapter imports: the wire to the use cases and back. It contains no rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from luthier.trainer.v1 import adapter_import_service_pb2 as pb
from luthier.trainer.v1 import adapter_import_service_pb2_grpc as rpc

from luthierd.jobs.queue import JobQueue
from luthierd.names import ADAPTER_IMPORT
from luthierd.rpc.auth import current_principal
from luthierd.rpc.contract import Context
from luthierd.rpc.deletion import delete
from luthierd.rpc.job_resource import JobResource
from luthierd.storage.deletions import Deletions
from luthierd.trainer.adapter_imports import AdapterImports
from luthierd.trainer.api import training_wire as wire
from luthierd.trainer.uploads import Uploads


class AdapterImportServicer(rpc.AdapterImportServiceServicer):
    """`luthier.trainer.v1.AdapterImportService`."""

    def __init__(
        self,
        imports: AdapterImports,
        uploads: Uploads,
        queue: JobQueue,
        stopping: asyncio.Event,
        deletions: Deletions,
    ) -> None:
        self._imports, self._uploads, self._deletions = imports, uploads, deletions
        self._resource = JobResource(imports, queue, stopping, to_proto=wire.adapter_import_to_proto)

    async def WriteAdapterFile(
        self, request: pb.WriteAdapterFileRequest, context: Context
    ) -> pb.WriteAdapterFileResponse:
        committed_bytes = await self._uploads.write(
            request.parent,
            request.sha256,
            size_bytes=request.size_bytes,
            offset_bytes=request.offset_bytes,
            data=request.data,
        )
        return pb.WriteAdapterFileResponse(committed_bytes=committed_bytes)

    async def CreateAdapterImport(
        self, request: pb.CreateAdapterImportRequest, context: Context
    ) -> pb.CreateAdapterImportResponse:
        wanted = request.adapter_import
        job = await self._imports.create(
            request.parent,
            request.adapter_import_id,
            adapter=wanted.adapter,
            base_model=wanted.base_model,
            files=[(file.path, file.sha256) for file in wanted.files],
            subject=current_principal().subject,
        )
        return self._resource.answer(pb.CreateAdapterImportResponse, job)

    async def GetAdapterImport(
        self, request: pb.GetAdapterImportRequest, context: Context
    ) -> pb.GetAdapterImportResponse:
        return await self._resource.get(request, pb.GetAdapterImportResponse)

    async def ListAdapterImports(
        self, request: pb.ListAdapterImportsRequest, context: Context
    ) -> pb.ListAdapterImportsResponse:
        return await self._resource.list(request, pb.ListAdapterImportsResponse)

    async def CancelAdapterImport(
        self, request: pb.CancelAdapterImportRequest, context: Context
    ) -> pb.CancelAdapterImportResponse:
        return await self._resource.cancel(request, pb.CancelAdapterImportResponse)

    def WatchAdapterImport(
        self, request: pb.WatchAdapterImportRequest, context: Context
    ) -> AsyncIterator[pb.WatchAdapterImportResponse]:
        return self._resource.watch(request, pb.WatchAdapterImportResponse, wire.import_event_to_proto)

    async def DeleteAdapterImport(
        self, request: pb.DeleteAdapterImportRequest, context: Context
    ) -> pb.DeleteAdapterImportResponse:
        return await delete(self._deletions, ADAPTER_IMPORT, request, pb.DeleteAdapterImportResponse)
