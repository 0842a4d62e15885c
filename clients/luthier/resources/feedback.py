"""Feedback on answers, and what a tenant chose to keep of them (the inference service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import cached_property

from google.protobuf.duration_pb2 import Duration

from luthier.inference.v1 import feedback_pb2 as pb
from luthier.inference.v1 import feedback_service_pb2 as api
from luthier.inference.v1 import feedback_service_pb2_grpc as rpc
from luthier.resources.reading import pages, pieces
from luthier.transport import Transport, new_request_id


class Feedback:
    """`parent`: the tenant, `tenants/{t}`. `response_id`: the id that an answer carried."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.FeedbackServiceAsyncStub:
        return rpc.FeedbackServiceStub(self._transport.channel)

    async def record(
        self,
        parent: str,
        response_id: str,
        *,
        rating: pb.Rating.ValueType = pb.RATING_UNSPECIFIED,
        correction: str = "",
        labels: Sequence[str] = (),
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.Feedback:
        """Says what an answer was worth, or should have been; a later word replaces an earlier one."""
        request = api.RecordFeedbackRequest(
            parent=parent,
            response_id=response_id,
            rating=rating,
            correction=correction,
            labels=labels,
            request_id=request_id or new_request_id(),
        )
        return (await self._transport.unary(self._stub.RecordFeedback, request, timeout_s=timeout_s)).feedback

    async def export(
        self,
        parent: str,
        *,
        deployment: str = "",
        rating: pb.Rating.ValueType = pb.RATING_UNSPECIFIED,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.CaptureFile:
        """Writes the feedback into a Parquet file, with prompts and answers where they were captured."""
        request = api.ExportFeedbackRequest(
            parent=parent, deployment=deployment, rating=rating, request_id=request_id or new_request_id()
        )
        return (await self._transport.unary(self._stub.ExportFeedback, request, timeout_s=timeout_s)).capture_file


class Captures:
    """Whether prompts and answers of the tenant `tenants/{t}` are kept, and the files that they are kept in."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.FeedbackServiceAsyncStub:
        return rpc.FeedbackServiceStub(self._transport.channel)

    async def get_policy(self, parent: str, *, timeout_s: float | None = None) -> pb.CapturePolicy:
        request = api.GetCapturePolicyRequest(name=f"{parent}/capturePolicy")
        return (await self._transport.unary(self._stub.GetCapturePolicy, request, timeout_s=timeout_s)).capture_policy

    async def update_policy(
        self,
        parent: str,
        *,
        enabled: bool | None = None,
        retention_s: float | None = None,
        sample_rate: float | None = None,
        etag: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.CapturePolicy:
        """Changes what is not None. `enabled=False` deletes what was captured. `etag`: as for deployments."""
        retention = None
        if retention_s is not None:
            retention = Duration()
            retention.FromMicroseconds(round(retention_s * 1e6))
        request = api.UpdateCapturePolicyRequest(
            name=f"{parent}/capturePolicy",
            capture_policy=pb.CapturePolicy(enabled=enabled, retention=retention, sample_rate=sample_rate),
            etag=etag,
            request_id=request_id or new_request_id(),
        )
        answer = await self._transport.unary(self._stub.UpdateCapturePolicy, request, timeout_s=timeout_s)
        return answer.capture_policy

    def list(
        self,
        parent: str,
        *,
        kind: pb.CaptureFileKind.ValueType = pb.CAPTURE_FILE_KIND_UNSPECIFIED,
        page_size: int = 0,
    ) -> AsyncIterator[pb.CaptureFile]:
        """The tenant's files, oldest first."""

        async def fetch(token: str) -> tuple[Sequence[pb.CaptureFile], str]:
            request = api.ListCapturesRequest(parent=parent, kind=kind, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListCaptures, request)
            return page.capture_files, page.next_page_token

        return pages(fetch)

    def read(self, name: str) -> AsyncIterator[bytes]:
        """The Parquet bytes of a file, piece by piece; `DataLossError` if they arrive damaged."""

        async def fetch(offset: int) -> api.ReadCaptureFileResponse:
            request = api.ReadCaptureFileRequest(name=name, offset_bytes=offset)
            return await self._transport.unary(self._stub.ReadCaptureFile, request)

        return pieces(fetch, what=name)
