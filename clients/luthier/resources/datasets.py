"""Datasets and their immutable revisions (the curation service)."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from luthier import names
from luthier.curation.v1 import dataset_pb2 as pb
from luthier.curation.v1 import dataset_service_pb2 as api
from luthier.curation.v1 import dataset_service_pb2_grpc as rpc
from luthier.errors import UnavailableError
from luthier.resources import uploading
from luthier.resources.job_resource import JobResource
from luthier.resources.resource import Deletion, Resource, joined
from luthier.transport import Transport, new_request_id


class _Revisions(JobResource["rpc.DatasetServiceAsyncStub", pb.DatasetRevision, pb.DatasetRevisionEvent]):
    _make_stub = rpc.DatasetServiceStub
    _api, _job, _field = api, "DatasetRevision", "revision"


class Datasets(Resource["rpc.DatasetServiceAsyncStub"]):
    _make_stub = rpc.DatasetServiceStub

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._revisions = _Revisions(transport)

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

        Or the rows of one Parquet file: either with the keys of rows as columns, or an export of feedback.
        """
        source = await uploading.files([pathlib.Path(path) for path in paths])
        return await self._import(name, source, request_id=request_id, timeout_s=timeout_s)

    async def _import(
        self, name: str, source: uploading.Source, *, request_id: str, timeout_s: float | None
    ) -> pb.Dataset:
        parsed = names.parse_as(name, "dataset")
        header = api.ImportDatasetHeader(
            parent=parsed.parent,
            dataset_id=parsed.id,
            expected_sha256=source.sha256,
            request_id=request_id or new_request_id(),
        )

        async def requests() -> AsyncIterator[api.ImportDatasetRequest]:
            yield api.ImportDatasetRequest(header=header)
            async for chunk in source.chunks():
                yield api.ImportDatasetRequest(data=chunk)

        answer = await self._transport.upload(
            self._stub.ImportDataset, requests, request_type=api.ImportDatasetRequest, timeout_s=timeout_s
        )
        return answer.dataset

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.Dataset:
        return (await self._call(self._stub.GetDataset, api.GetDatasetRequest(name=name), timeout_s)).dataset

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.Dataset]:
        """The datasets of `tenants/{t}`, by name."""
        request = api.ListDatasetsRequest(parent=parent, page_size=page_size)
        return self._pages(self._stub.ListDatasets, request, lambda page: page.datasets)

    async def curate(
        self,
        name: str,
        *,
        recipe: pb.CurationRecipe | None = None,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.DatasetRevision:
        """Starts the curation of the dataset's current source; returns the new revision, CURATING."""
        request = api.CurateDatasetRequest(name=name, recipe=recipe, request_id=request_id)
        return (await self._call(self._stub.CurateDataset, request, timeout_s)).revision

    async def get_revision(self, name: str, *, timeout_s: float | None = None) -> pb.DatasetRevision:
        return await self._revisions.get(name, timeout_s=timeout_s)

    def list_revisions(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.DatasetRevision]:
        """The revisions of a dataset, newest first; `tenants/{t}/datasets/-` means every dataset."""
        return self._revisions.list(parent, page_size=page_size)

    async def cancel_revision(
        self, name: str, *, request_id: str = "", timeout_s: float | None = None
    ) -> pb.DatasetRevision:
        """Asks a running curation to end; a finished revision is returned unchanged."""
        return await self._revisions.cancel(name, request_id=request_id, timeout_s=timeout_s)

    async def delete_revision(
        self,
        name: str,
        *,
        cascade: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Deletion:
        """Deletes a finished revision; see docs/storage.md."""
        return await self._revisions.delete(
            name, cascade=cascade, validate_only=validate_only, request_id=request_id, timeout_s=timeout_s
        )

    def watch_revision(
        self, name: str, *, after_event_id: int = 0, on_away: Callable[[UnavailableError], None] | None = None
    ) -> AsyncIterator[pb.DatasetRevisionEvent]:
        """Yields the revision's events until it is final, across restarts of the service; on_away is called at each."""
        return self._revisions.watch(name, after_event_id=after_event_id, on_away=on_away)

    async def wait_revision(
        self, name: str, *, timeout_s: float | None = None, poll_interval_s: float = 0.5
    ) -> pb.DatasetRevision:
        """Waits until the revision is READY. Raises `JobFailedError`, `JobCancelledError` or `TimeoutError`."""
        return await self._revisions.wait(name, timeout_s=timeout_s, poll_interval_s=poll_interval_s)

    def read_split(self, name: str, split: pb.Split.ValueType) -> AsyncIterator[bytes]:
        """The JSONL of a split of a READY revision, piece by piece; `DataLossError` if it arrives damaged."""
        request = api.ReadDatasetRevisionRequest(name=name, split=split)
        what = f"the {pb.Split.Name(split)} file of {name}"
        return self._blob(self._stub.ReadDatasetRevision, request, what=what)

    async def rows(self, name: str, split: pb.Split.ValueType) -> AsyncIterator[dict[str, Any]]:
        """The rows of a split: `id`, `group`, `label`, `messages`."""
        rest = b""
        async for chunk in self.read_split(name, split):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)
        if rest:
            yield json.loads(rest)

    async def datasheet(self, name: str) -> dict[str, Any]:
        """What curation found, dropped and changed, and why."""
        request = api.ReadDatasetRevisionRequest(name=name, datasheet=True)
        pieces = self._blob(self._stub.ReadDatasetRevision, request, what=f"the datasheet of {name}")
        found: dict[str, Any] = json.loads(await joined(pieces))
        return found

    async def delete(
        self,
        name: str,
        *,
        cascade: bool = False,
        validate_only: bool = False,
        etag: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Deletion:
        """Deletes a dataset; with `cascade` also its revisions. See docs/storage.md, also for the methods below."""
        request = api.DeleteDatasetRequest(
            name=name, cascade=cascade, validate_only=validate_only, etag=etag, request_id=request_id
        )
        return await self._delete(self._stub.DeleteDataset, request, timeout_s)
