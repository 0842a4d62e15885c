"""The gRPC servicer of annotation queues: the wire to the use cases and back."""

from __future__ import annotations

from luthier.evaluator.v1 import annotation_queue_service_pb2 as pb
from luthier.evaluator.v1 import annotation_queue_service_pb2_grpc as rpc

from luthierd.evaluator.api import annotation_queue_wire as wire
from luthierd.evaluator.api.metric_wire import metric_from_name
from luthierd.evaluator.human_review.queues import AnnotationQueues
from luthierd.names import ANNOTATION_QUEUE
from luthierd.rpc.auth import current_principal
from luthierd.rpc.contract import Context
from luthierd.rpc.deletion import delete
from luthierd.rpc.wire import to_proto
from luthierd.storage.deletions import Deletions


class AnnotationQueueServicer(rpc.AnnotationQueueServiceServicer):
    """`luthier.evaluator.v1.AnnotationQueueService`."""

    def __init__(self, queues: AnnotationQueues, deletions: Deletions) -> None:
        self._queues, self._deletions = queues, deletions

    async def CreateAnnotationQueue(
        self, request: pb.CreateAnnotationQueueRequest, context: Context
    ) -> pb.CreateAnnotationQueueResponse:
        config = wire.config_from_proto(request.annotation_queue)
        created = await self._queues.create(request.parent, request.annotation_queue_id, config)
        return pb.CreateAnnotationQueueResponse(annotation_queue=wire.queue_to_proto(created))

    async def GetAnnotationQueue(
        self, request: pb.GetAnnotationQueueRequest, context: Context
    ) -> pb.GetAnnotationQueueResponse:
        found = await self._queues.get(request.name)
        return pb.GetAnnotationQueueResponse(annotation_queue=wire.queue_to_proto(found))

    async def ListAnnotationQueues(
        self, request: pb.ListAnnotationQueuesRequest, context: Context
    ) -> pb.ListAnnotationQueuesResponse:
        page = await self._queues.list(request.parent, request.page_size, request.page_token)
        return pb.ListAnnotationQueuesResponse(
            annotation_queues=[wire.queue_to_proto(item) for item in page.items], next_page_token=page.next_page_token
        )

    async def GetNextAnnotationItem(
        self, request: pb.GetNextAnnotationItemRequest, context: Context
    ) -> pb.GetNextAnnotationItemResponse:
        found = await self._queues.next_item(request.parent, rater=current_principal().subject)
        return pb.GetNextAnnotationItemResponse(
            item=wire.item_to_proto(found), judged_count=found.judged_count, waiting_count=found.waiting_count
        )

    async def RecordAnnotationVote(
        self, request: pb.RecordAnnotationVoteRequest, context: Context
    ) -> pb.RecordAnnotationVoteResponse:
        given = request.vote
        vote = await self._queues.record(
            request.parent,
            item_id=given.item_id,
            rater=current_principal().subject,
            choice=wire.choice_from_proto(given.choice),
            rating=given.rating or None,
            comment=given.comment,
        )
        return pb.RecordAnnotationVoteResponse(vote=wire.vote_to_proto(vote))

    async def ListAnnotationVotes(
        self, request: pb.ListAnnotationVotesRequest, context: Context
    ) -> pb.ListAnnotationVotesResponse:
        page = await self._queues.votes(request.parent, request.page_size, request.page_token)
        return pb.ListAnnotationVotesResponse(
            votes=[wire.unblinded_to_proto(vote, item) for vote, item in page.items],
            next_page_token=page.next_page_token,
        )

    async def GetAnnotationSummary(
        self, request: pb.GetAnnotationSummaryRequest, context: Context
    ) -> pb.GetAnnotationSummaryResponse:
        judge = metric_from_name(request.judge_metric, field="judge_metric") if request.judge_metric else None
        found = await self._queues.summary(request.name, judge)
        return to_proto(pb.GetAnnotationSummaryResponse, None, summary=found)

    async def DeleteAnnotationQueue(
        self, request: pb.DeleteAnnotationQueueRequest, context: Context
    ) -> pb.DeleteAnnotationQueueResponse:
        return await delete(self._deletions, ANNOTATION_QUEUE, request, pb.DeleteAnnotationQueueResponse)
