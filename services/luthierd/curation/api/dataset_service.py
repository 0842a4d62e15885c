"""The gRPC servicer of curation: the wire to the use cases and back. It holds no rule of its own."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from luthier.curation.v1 import dataset_service_pb2 as pb
from luthier.curation.v1 import dataset_service_pb2_grpc as rpc

from luthierd.curation.api import dataset_wire as wire
from luthierd.curation.datasets import Datasets
from luthierd.curation.revisions import Revisions
from luthierd.errors import InvalidArgumentError
from luthierd.jobs.events import watch
from luthierd.jobs.queue import JobQueue
from luthierd.rpc.idempotency import ReplayStore, RequestIdReusedError
from luthierd.storage.replays import Replay

Context = grpc.aio.ServicerContext[Any, Any]


class DatasetServicer(rpc.DatasetServiceServicer):
    """`luthier.curation.v1.DatasetService`."""

    def __init__(
        self, datasets: Datasets, revisions: Revisions, queue: JobQueue, replays: ReplayStore, stopping: asyncio.Event
    ) -> None:
        self._datasets = datasets
        self._revisions = revisions
        self._queue = queue
        self._replays = replays
        self._stopping = stopping

    async def ImportDataset(self, requests: AsyncIterator[pb.ImportDatasetRequest], context: Context) -> Any:
        header = await _read_header(requests)
        key, fingerprint = _replay_key(header), hashlib.sha256(header.SerializeToString(deterministic=True)).hexdigest()
        replay = await self._replays.get(key) if header.request_id else None
        if replay is not None:
            if replay.fingerprint != fingerprint:
                raise RequestIdReusedError(
                    f"request_id {header.request_id} was used before for another import; make a new one",
                    metadata={"request_id": header.request_id},
                )
            return pb.ImportDatasetResponse.FromString(replay.response)
        dataset = await self._datasets.import_rows(
            header.parent, header.dataset_id, _data(requests), expected_sha256=header.expected_sha256
        )
        response = pb.ImportDatasetResponse(dataset=wire.dataset_to_proto(dataset))
        if header.request_id:
            await self._replays.put(key, Replay(fingerprint, response.SerializeToString()))
        return response

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> Any:
        return pb.GetDatasetResponse(dataset=wire.dataset_to_proto(await self._datasets.get(request.name)))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> Any:
        page = await self._datasets.list(request.parent, request.page_size, request.page_token)
        return pb.ListDatasetsResponse(
            datasets=[wire.dataset_to_proto(item) for item in page.items], next_page_token=page.next_page_token
        )

    async def CurateDataset(self, request: pb.CurateDatasetRequest, context: Context) -> Any:
        revision = await self._revisions.curate(request.name, wire.recipe_from_proto(request.recipe))
        return pb.CurateDatasetResponse(revision=wire.revision_to_proto(revision))

    async def GetDatasetRevision(self, request: pb.GetDatasetRevisionRequest, context: Context) -> Any:
        revision = await self._revisions.get(request.name)
        return pb.GetDatasetRevisionResponse(revision=wire.revision_to_proto(revision))

    async def ListDatasetRevisions(self, request: pb.ListDatasetRevisionsRequest, context: Context) -> Any:
        page = await self._revisions.list(request.parent, request.page_size, request.page_token)
        return pb.ListDatasetRevisionsResponse(
            revisions=[wire.revision_to_proto(item) for item in page.items], next_page_token=page.next_page_token
        )

    async def CancelDatasetRevision(self, request: pb.CancelDatasetRevisionRequest, context: Context) -> Any:
        revision = await self._revisions.cancel(request.name)
        return pb.CancelDatasetRevisionResponse(revision=wire.revision_to_proto(revision))

    async def WatchDatasetRevision(
        self, request: pb.WatchDatasetRevisionRequest, context: Context
    ) -> AsyncIterator[pb.WatchDatasetRevisionResponse]:
        await self._revisions.get(request.name)
        after = request.after_event_id
        async for event in watch(self._queue, request.name, after_event_id=after, stopping=self._stopping):
            message = wire.event_to_proto(event)
            if message is not None:
                yield pb.WatchDatasetRevisionResponse(event=message)

    async def ReadDatasetRevision(self, request: pb.ReadDatasetRevisionRequest, context: Context) -> Any:
        part = None if request.datasheet else wire.split_from_proto(request.split)
        piece = await self._revisions.read(
            request.name, part, offset_bytes=request.offset_bytes, limit_bytes=request.limit_bytes
        )
        return pb.ReadDatasetRevisionResponse(data=piece.data, size_bytes=piece.size_bytes, sha256=piece.sha256)


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


def _replay_key(header: pb.ImportDatasetHeader) -> str:
    return hashlib.sha256(f"{header.parent}\0ImportDataset\0{header.request_id}".encode()).hexdigest()
