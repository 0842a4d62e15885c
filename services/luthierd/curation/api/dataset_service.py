"""The gRPC servicer of curation: the wire to the use cases and back. It contains no rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from luthier.curation.v1 import dataset_service_pb2 as pb
from luthier.curation.v1 import dataset_service_pb2_grpc as rpc

from luthierd.curation.api import dataset_wire as wire
from luthierd.curation.datasets import Datasets
from luthierd.curation.revisions import Revisions
from luthierd.errors import InvalidArgumentError
from luthierd.jobs.queue import JobQueue
from luthierd.names import DATASET, DATASET_REVISION
from luthierd.rpc.contract import Context
from luthierd.rpc.deletion import delete
from luthierd.rpc.idempotency import Replays
from luthierd.rpc.job_resource import JobResource
from luthierd.rpc.wire import page_to_proto
from luthierd.storage.deletions import Deletions
from luthierd.storage.replays import SqlReplayStore


class DatasetServicer(rpc.DatasetServiceServicer):
    """`luthier.curation.v1.DatasetService`."""

    def __init__(
        self,
        datasets: Datasets,
        revisions: Revisions,
        queue: JobQueue,
        *,
        replays: SqlReplayStore,
        stopping: asyncio.Event,
        deletions: Deletions,
    ) -> None:
        self._datasets = datasets
        self._revisions = revisions
        self._deletions = deletions
        self._replays = Replays(replays)
        self._jobs = JobResource(revisions, queue, stopping, to_proto=wire.revision_to_proto)

    async def ImportDataset(
        self, requests: AsyncIterator[pb.ImportDatasetRequest], context: Context
    ) -> pb.ImportDatasetResponse:
        header = await _read_header(requests)

        async def answer() -> pb.ImportDatasetResponse:
            dataset = await self._datasets.import_rows(
                header.parent, header.dataset_id, _data(requests), expected_sha256=header.expected_sha256
            )
            return pb.ImportDatasetResponse(dataset=wire.dataset_to_proto(dataset))

        return pb.ImportDatasetResponse.FromString(await self._replays.once("ImportDataset", header, answer))

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> pb.GetDatasetResponse:
        return pb.GetDatasetResponse(dataset=wire.dataset_to_proto(await self._datasets.get(request.name)))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:
        page = await self._datasets.list(request.parent, request.page_size, request.page_token)
        return page_to_proto(pb.ListDatasetsResponse, page, wire.dataset_to_proto)

    async def CurateDataset(self, request: pb.CurateDatasetRequest, context: Context) -> pb.CurateDatasetResponse:
        revision = await self._revisions.curate(request.name, wire.recipe_from_proto(request.recipe))
        return self._jobs.answer(pb.CurateDatasetResponse, revision)

    async def GetDatasetRevision(
        self, request: pb.GetDatasetRevisionRequest, context: Context
    ) -> pb.GetDatasetRevisionResponse:
        return await self._jobs.get(request, pb.GetDatasetRevisionResponse)

    async def ListDatasetRevisions(
        self, request: pb.ListDatasetRevisionsRequest, context: Context
    ) -> pb.ListDatasetRevisionsResponse:
        return await self._jobs.list(request, pb.ListDatasetRevisionsResponse)

    async def CancelDatasetRevision(
        self, request: pb.CancelDatasetRevisionRequest, context: Context
    ) -> pb.CancelDatasetRevisionResponse:
        return await self._jobs.cancel(request, pb.CancelDatasetRevisionResponse)

    def WatchDatasetRevision(
        self, request: pb.WatchDatasetRevisionRequest, context: Context
    ) -> AsyncIterator[pb.WatchDatasetRevisionResponse]:
        return self._jobs.watch(request, pb.WatchDatasetRevisionResponse, wire.event_to_proto)

    async def ReadDatasetRevision(
        self, request: pb.ReadDatasetRevisionRequest, context: Context
    ) -> pb.ReadDatasetRevisionResponse:
        part = None if request.datasheet else wire.split_from_proto(request.split)
        piece = await self._revisions.read(
            request.name, part, offset_bytes=request.offset_bytes, limit_bytes=request.limit_bytes
        )
        return pb.ReadDatasetRevisionResponse(data=piece.data, size_bytes=piece.size_bytes, sha256=piece.sha256)

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> pb.DeleteDatasetResponse:
        return await delete(self._deletions, DATASET, request, pb.DeleteDatasetResponse)

    async def DeleteDatasetRevision(
        self, request: pb.DeleteDatasetRevisionRequest, context: Context
    ) -> pb.DeleteDatasetRevisionResponse:
        return await delete(self._deletions, DATASET_REVISION, request, pb.DeleteDatasetRevisionResponse)


async def _read_header(requests: AsyncIterator[pb.ImportDatasetRequest]) -> pb.ImportDatasetHeader:
    async for request in requests:
        if request.HasField("header"):
            return request.header
        break
    raise InvalidArgumentError.of_field("header", "the first message must carry the header, each later one data")


async def _data(requests: AsyncIterator[pb.ImportDatasetRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "data":
            raise InvalidArgumentError.of_field("data", "each message after the first must carry data")
        yield request.data
