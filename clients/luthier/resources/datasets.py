"""Datasets and their immutable revisions (the curation service)."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from luthier import names
from luthier.curation.v1 import dataset_pb2 as pb
from luthier.curation.v1 import dataset_service_pb2 as api
from luthier.curation.v1 import dataset_service_pb2_grpc as rpc
from luthier.errors import UnavailableError
from luthier.resources import uploading
from luthier.resources.reading import finished, joined, lines, pages, pieces, wait_for
from luthier.transport import Transport, new_request_id

FINAL_STATES = frozenset(
    {pb.DATASET_REVISION_STATE_READY, pb.DATASET_REVISION_STATE_FAILED, pb.DATASET_REVISION_STATE_CANCELLED}
)


class Datasets:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.DatasetServiceAsyncStub:
        return rpc.DatasetServiceStub(self._transport.channel)

    async def import_rows(
        self, name: str, rows: Iterable[Mapping[str, Any]], *, request_id: str = "", timeout_s: float | None = None
    ) -> pb.Dataset:
        """Makes `rows` the source of the dataset `tenants/{t}/datasets/{d}`, creating it if need be. All or nothing."""
        with uploading.spooled_rows(rows) as source:
            return await self._import(name, source, request_id=request_id, timeout_s=timeout_s)

    async def import_files(
        self,
        name: str,
        paths: Sequence[str | os.PathLike[str]],
        *,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.Dataset:
        """Makes the lines of JSONL files, one file after the other, the source of the dataset. All or nothing.

        Or the rows of one Parquet file: one with the keys of rows as columns, or an export of feedback.
        """
        source = await asyncio.to_thread(uploading.files, [pathlib.Path(path) for path in paths])
        return await self._import(name, source, request_id=request_id, timeout_s=timeout_s)

    async def _import(
        self, name: str, source: uploading.Source, *, request_id: str, timeout_s: float | None
    ) -> pb.Dataset:
        parsed = names.parse_as(name, "dataset")
        header = api.ImportDatasetHeader(
            parent=parsed.parent,
            dataset_id=parsed.id,
            expected_sha256=await source.sha256(),
            request_id=request_id or new_request_id(),
        )

        async def requests() -> AsyncIterator[api.ImportDatasetRequest]:
            yield api.ImportDatasetRequest(header=header)
            async for chunk in source.chunks():
                yield api.ImportDatasetRequest(data=chunk)

        answer = await self._transport.upload(
            self._stub.ImportDataset, requests, method="ImportDataset", timeout_s=timeout_s
        )
        return answer.dataset

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.Dataset:
        answer = await self._transport.unary(
            self._stub.GetDataset, api.GetDatasetRequest(name=name), timeout_s=timeout_s
        )
        return answer.dataset

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.Dataset]:
        """The datasets of `tenants/{t}`, by name."""

        async def fetch(token: str) -> tuple[Sequence[pb.Dataset], str]:
            request = api.ListDatasetsRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListDatasets, request)
            return page.datasets, page.next_page_token

        return pages(fetch)

    async def curate(
        self,
        name: str,
        *,
        recipe: pb.CurationRecipe | None = None,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.DatasetRevision:
        """Starts the curation of the dataset's present source; returns the new revision, CURATING."""
        request = api.CurateDatasetRequest(name=name, recipe=recipe, request_id=request_id or new_request_id())
        answer = await self._transport.unary(self._stub.CurateDataset, request, timeout_s=timeout_s)
        return answer.revision

    async def get_revision(self, name: str, *, timeout_s: float | None = None) -> pb.DatasetRevision:
        request = api.GetDatasetRevisionRequest(name=name)
        answer = await self._transport.unary(self._stub.GetDatasetRevision, request, timeout_s=timeout_s)
        return answer.revision

    def list_revisions(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.DatasetRevision]:
        """The revisions of a dataset, newest first; `tenants/{t}/datasets/-` means every dataset."""

        async def fetch(token: str) -> tuple[Sequence[pb.DatasetRevision], str]:
            request = api.ListDatasetRevisionsRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListDatasetRevisions, request)
            return page.revisions, page.next_page_token

        return pages(fetch)

    async def cancel_revision(
        self, name: str, *, request_id: str = "", timeout_s: float | None = None
    ) -> pb.DatasetRevision:
        """Asks a running curation to end; a finished revision is returned unchanged."""
        request = api.CancelDatasetRevisionRequest(name=name, request_id=request_id or new_request_id())
        answer = await self._transport.unary(self._stub.CancelDatasetRevision, request, timeout_s=timeout_s)
        return answer.revision

    def watch_revision(
        self, name: str, *, after_event_id: int = 0, on_away: Callable[[UnavailableError], None] | None = None
    ) -> AsyncIterator[pb.DatasetRevisionEvent]:
        """Yields the revision's events until it is final, across restarts of the service; on_away is told of each."""

        async def is_over() -> bool:
            return (await self.get_revision(name)).state in FINAL_STATES

        return self._transport.watch(
            self._stub.WatchDatasetRevision,
            lambda after: api.WatchDatasetRevisionRequest(name=name, after_event_id=after),
            lambda message: message.event,
            after_event_id=after_event_id,
            is_final=lambda event: event.HasField("state") and event.state in FINAL_STATES,
            is_over=is_over,
            on_away=on_away,
        )

    async def wait_revision(
        self, name: str, *, timeout_s: float | None = None, poll_interval_s: float = 0.5
    ) -> pb.DatasetRevision:
        """Waits until the revision is READY. Raises `JobFailedError`, `JobCancelledError` or `TimeoutError`."""
        revision = await wait_for(
            lambda: self.get_revision(name),
            lambda found: found.state in FINAL_STATES,
            poll_interval_s=poll_interval_s,
            timeout_s=timeout_s,
            retry=self._transport.retry,
        )
        return finished(
            revision,
            failed=revision.state == pb.DATASET_REVISION_STATE_FAILED,
            cancelled=revision.state == pb.DATASET_REVISION_STATE_CANCELLED,
        )

    def read_split(self, name: str, split: pb.Split.ValueType) -> AsyncIterator[bytes]:
        """The JSONL of a split of a READY revision, piece by piece; `DataLossError` if it arrives damaged."""

        async def fetch(offset: int) -> api.ReadDatasetRevisionResponse:
            request = api.ReadDatasetRevisionRequest(name=name, split=split, offset_bytes=offset)
            return await self._transport.unary(self._stub.ReadDatasetRevision, request)

        return pieces(fetch, what=f"the {pb.Split.Name(split)} file of {name}")

    async def rows(self, name: str, split: pb.Split.ValueType) -> AsyncIterator[dict[str, Any]]:
        """The rows of a split: `id`, `group`, `label`, `messages`."""
        async for line in lines(self.read_split(name, split)):
            yield json.loads(line)

    async def datasheet(self, name: str) -> dict[str, Any]:
        """What curation found, dropped and changed, and why."""

        async def fetch(offset: int) -> api.ReadDatasetRevisionResponse:
            request = api.ReadDatasetRevisionRequest(name=name, datasheet=True, offset_bytes=offset)
            return await self._transport.unary(self._stub.ReadDatasetRevision, request)

        found: dict[str, Any] = json.loads(await joined(pieces(fetch, what=f"the datasheet of {name}")))
        return found
