"""The gRPC servicer of feedback and capture: each method parses, calls one use case, and translates."""

from __future__ import annotations

from typing import Any

from luthier.inference.v1 import feedback_service_pb2 as pb
from luthier.inference.v1 import feedback_service_pb2_grpc as rpc

from luthierd.inference.api import feedback_wire as wire
from luthierd.inference.domain.feedback import ExportFilter
from luthierd.inference.feedback.capture_files import CaptureFiles
from luthierd.inference.feedback.capture_policies import CapturePolicies
from luthierd.inference.feedback.feedback import Feedbacks


class FeedbackServicer(rpc.FeedbackServiceServicer):
    """Keeps what users say, and what their tenant chose to keep."""

    def __init__(self, feedbacks: Feedbacks, policies: CapturePolicies, files: CaptureFiles) -> None:
        self._feedbacks, self._policies, self._files = feedbacks, policies, files

    async def RecordFeedback(self, request: Any, context: Any) -> pb.RecordFeedbackResponse:
        kept = await self._feedbacks.record(request.parent, request.response_id, wire.opinion_from_proto(request))
        return pb.RecordFeedbackResponse(feedback=wire.feedback_to_proto(kept))

    async def ExportFeedback(self, request: Any, context: Any) -> pb.ExportFeedbackResponse:
        only = ExportFilter(deployment=request.deployment, rating=wire.rating_from_proto(request.rating))
        file = await self._feedbacks.export(request.parent, only)
        return pb.ExportFeedbackResponse(capture_file=wire.file_to_proto(file))

    async def GetCapturePolicy(self, request: Any, context: Any) -> pb.GetCapturePolicyResponse:
        policy = await self._policies.get(request.name)
        return pb.GetCapturePolicyResponse(capture_policy=wire.policy_to_proto(policy))

    async def UpdateCapturePolicy(self, request: Any, context: Any) -> pb.UpdateCapturePolicyResponse:
        change = wire.change_from_proto(request.capture_policy)
        policy = await self._policies.update(request.name, change, etag=request.etag)
        return pb.UpdateCapturePolicyResponse(capture_policy=wire.policy_to_proto(policy))

    async def ListCaptures(self, request: Any, context: Any) -> pb.ListCapturesResponse:
        kind = wire.kind_from_proto(request.kind)
        page = await self._files.list(request.parent, kind, request.page_size, request.page_token)
        return pb.ListCapturesResponse(
            capture_files=[wire.file_to_proto(file) for file in page.items], next_page_token=page.next_page_token
        )

    async def ReadCaptureFile(self, request: Any, context: Any) -> pb.ReadCaptureFileResponse:
        piece = await self._files.read(request.name, offset_bytes=request.offset_bytes, limit_bytes=request.limit_bytes)
        return pb.ReadCaptureFileResponse(data=piece.data, size_bytes=piece.size_bytes, sha256=piece.sha256)
