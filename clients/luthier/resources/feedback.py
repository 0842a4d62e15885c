"""Feedback on answers, and the capture of prompts and answers (the inference service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from google.protobuf.duration_pb2 import Duration

from luthier.inference.v1 import feedback_pb2 as pb
from luthier.inference.v1 import feedback_service_pb2 as api
from luthier.inference.v1 import feedback_service_pb2_grpc as rpc
from luthier.resources.resource import Resource


class Feedback(Resource["rpc.FeedbackServiceAsyncStub"]):
    """`parent`: the tenant, `tenants/{t}`. `response_id`: the id in the answer."""

    _make_stub = rpc.FeedbackServiceStub

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
        """Rates, corrects or labels an answer; replaces earlier feedback on it."""
        request = api.RecordFeedbackRequest(
            parent=parent,
            response_id=response_id,
            rating=rating,
            correction=correction,
            labels=labels,
            request_id=request_id,
        )
        return (await self._call(self._stub.RecordFeedback, request, timeout_s)).feedback

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
        request = api.ExportFeedbackRequest(parent=parent, deployment=deployment, rating=rating, request_id=request_id)
        return (await self._call(self._stub.ExportFeedback, request, timeout_s)).capture_file


class Captures(Resource["rpc.FeedbackServiceAsyncStub"]):
    """Whether prompts and answers of the tenant `tenants/{t}` are stored, and the files that hold them."""

    _make_stub = rpc.FeedbackServiceStub

    async def get_policy(self, parent: str, *, timeout_s: float | None = None) -> pb.CapturePolicy:
        request = api.GetCapturePolicyRequest(name=f"{parent}/capturePolicy")
        return (await self._call(self._stub.GetCapturePolicy, request, timeout_s)).capture_policy

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
            request_id=request_id,
        )
        return (await self._call(self._stub.UpdateCapturePolicy, request, timeout_s)).capture_policy

    def list(
        self,
        parent: str,
        *,
        kind: pb.CaptureFileKind.ValueType = pb.CAPTURE_FILE_KIND_UNSPECIFIED,
        page_size: int = 0,
    ) -> AsyncIterator[pb.CaptureFile]:
        """The tenant's files, oldest first."""
        request = api.ListCapturesRequest(parent=parent, kind=kind, page_size=page_size)
        return self._pages(self._stub.ListCaptures, request, lambda page: page.capture_files)

    async def delete(self, name: str, *, request_id: str = "", timeout_s: float | None = None) -> None:
        """Deletes a file at once, before its retention ends."""
        request = api.DeleteCaptureFileRequest(name=name, request_id=request_id)
        await self._call(self._stub.DeleteCaptureFile, request, timeout_s)

    def read(self, name: str) -> AsyncIterator[bytes]:
        """The bytes of a Parquet file, piece by piece; `DataLossError` if they arrive damaged."""
        return self._blob(self._stub.ReadCaptureFile, api.ReadCaptureFileRequest(name=name), what=name)
