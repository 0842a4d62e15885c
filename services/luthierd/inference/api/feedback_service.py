"""The FeedbackService: feedback on answers, capture policies and capture files."""

from __future__ import annotations

from luthier.inference.v1 import feedback_pb2
from luthier.inference.v1 import feedback_service_pb2 as pb
from luthier.inference.v1 import feedback_service_pb2_grpc as rpc

from luthierd.inference.domain.feedback import (
    CaptureFile,
    CapturePolicy,
    ExportFilter,
    FileKind,
    Opinion,
    PolicyChange,
    Rating,
)
from luthierd.inference.feedback.capture_files import CaptureFiles
from luthierd.inference.feedback.capture_policies import CapturePolicies
from luthierd.inference.feedback.feedback import Feedbacks
from luthierd.names import CAPTURE_POLICY
from luthierd.rpc.contract import Context
from luthierd.rpc.wire import enum_from_proto, from_proto, page_to_proto, to_proto


class FeedbackServicer(rpc.FeedbackServiceServicer):
    """Stores what users say about answers, and what their tenant chose to keep."""

    def __init__(self, feedbacks: Feedbacks, policies: CapturePolicies, files: CaptureFiles) -> None:
        self._feedbacks, self._policies, self._files = feedbacks, policies, files

    async def RecordFeedback(self, request: pb.RecordFeedbackRequest, context: Context) -> pb.RecordFeedbackResponse:
        given = Opinion.parse(_rating(request.rating), request.correction, tuple(request.labels))
        kept = await self._feedbacks.record(request.parent, request.response_id, given)
        feedback = to_proto(
            feedback_pb2.Feedback,
            kept.response,
            name=f"tenants/{kept.response.tenant}/feedback/{kept.response.response_id}",
            **vars(kept.opinion),
            create_time=kept.create_time,
            update_time=kept.update_time,
            response_time=kept.response.create_time,
        )
        return pb.RecordFeedbackResponse(feedback=feedback)

    async def ExportFeedback(self, request: pb.ExportFeedbackRequest, context: Context) -> pb.ExportFeedbackResponse:
        only = ExportFilter(deployment=request.deployment, rating=_rating(request.rating))
        return pb.ExportFeedbackResponse(capture_file=_file(await self._feedbacks.export(request.parent, only)))

    async def GetCapturePolicy(
        self, request: pb.GetCapturePolicyRequest, context: Context
    ) -> pb.GetCapturePolicyResponse:
        return pb.GetCapturePolicyResponse(capture_policy=_policy(await self._policies.get(request.name)))

    async def UpdateCapturePolicy(
        self, request: pb.UpdateCapturePolicyRequest, context: Context
    ) -> pb.UpdateCapturePolicyResponse:
        given = request.capture_policy
        retention_s = given.retention.ToMicroseconds() / 1e6 if given.HasField("retention") else None
        change = from_proto(PolicyChange, given, retention_s=retention_s)
        policy = await self._policies.update(request.name, change, etag=request.etag)
        return pb.UpdateCapturePolicyResponse(capture_policy=_policy(policy))

    async def ListCaptures(self, request: pb.ListCapturesRequest, context: Context) -> pb.ListCapturesResponse:
        kinds = feedback_pb2.CaptureFileKind.DESCRIPTOR
        kind = enum_from_proto(FileKind, kinds, request.kind, path="kind") if request.kind else None
        page = await self._files.list(request.parent, kind, request.page_size, request.page_token)
        return page_to_proto(pb.ListCapturesResponse, page, _file)

    async def ReadCaptureFile(self, request: pb.ReadCaptureFileRequest, context: Context) -> pb.ReadCaptureFileResponse:
        chunk = await self._files.read(request.name, offset_bytes=request.offset_bytes, limit_bytes=request.limit_bytes)
        return to_proto(pb.ReadCaptureFileResponse, chunk)

    async def DeleteCaptureFile(
        self, request: pb.DeleteCaptureFileRequest, context: Context
    ) -> pb.DeleteCaptureFileResponse:
        await self._files.delete(request.name)
        return pb.DeleteCaptureFileResponse()


def _rating(number: int) -> Rating:
    return enum_from_proto(Rating, feedback_pb2.Rating.DESCRIPTOR, number, path="rating")


def _policy(policy: CapturePolicy) -> feedback_pb2.CapturePolicy:
    return to_proto(
        feedback_pb2.CapturePolicy,
        policy,
        name=CAPTURE_POLICY.format(policy.tenant),
        retention=policy.retention_s,
        update_time=policy.update_time if policy.change else None,
    )


def _file(file: CaptureFile) -> feedback_pb2.CaptureFile:
    return to_proto(feedback_pb2.CaptureFile, file, oldest_response_time=file.oldest_time if file.row_count else None)
