"""The gRPC servicer of comparison queues: the wire to the use cases and back."""

from __future__ import annotations

from typing import Any

import grpc
from luthier.evaluator.v1 import comparison_queue_service_pb2 as pb
from luthier.evaluator.v1 import comparison_queue_service_pb2_grpc as rpc

from luthierd.evaluator.api import annotation_queue_wire as wire
from luthierd.evaluator.human_review.queues import ComparisonQueues
from luthierd.evaluator.api.metric_wire import metric_from_name
from luthierd.rpc.auth import current_principal

FULL_NAME = "luthier.evaluator.v1.ComparisonQueueService"
# Raters need no other scope: whoever may read evaluations knows whose the answers are.
RATE = "evaluator.rate"
SCOPES = {
    "CreateComparisonQueue": "evaluator.write",
    "GetComparisonQueue": "evaluator.read",
    "ListComparisonQueues": "evaluator.read",
    "GetNextComparisonItem": RATE,
    "RecordComparisonVote": RATE,
    "ListComparisonVotes": "evaluator.read",
    "GetComparisonSummary": "evaluator.read",
}

Context = grpc.aio.ServicerContext[Any, Any]


class ComparisonQueueServicer(rpc.ComparisonQueueServiceServicer):
    """`luthier.evaluator.v1.ComparisonQueueService`."""

    def __init__(self, queues: ComparisonQueues) -> None:
        self._queues = queues

    async def CreateComparisonQueue(self, request: pb.CreateComparisonQueueRequest, context: Context) -> Any:
        config = wire.config_from_proto(request.comparison_queue)
        created = await self._queues.create(request.parent, request.comparison_queue_id, config)
        return pb.CreateComparisonQueueResponse(comparison_queue=wire.queue_to_proto(created))

    async def GetComparisonQueue(self, request: pb.GetComparisonQueueRequest, context: Context) -> Any:
        found = await self._queues.get(request.name)
        return pb.GetComparisonQueueResponse(comparison_queue=wire.queue_to_proto(found))

    async def ListComparisonQueues(self, request: pb.ListComparisonQueuesRequest, context: Context) -> Any:
        page = await self._queues.list(request.parent, request.page_size, request.page_token)
        return pb.ListComparisonQueuesResponse(
            comparison_queues=[wire.queue_to_proto(item) for item in page.items], next_page_token=page.next_page_token
        )

    async def GetNextComparisonItem(self, request: pb.GetNextComparisonItemRequest, context: Context) -> Any:
        found = await self._queues.next_item(request.parent, rater=current_principal().subject)
        return pb.GetNextComparisonItemResponse(
            item=wire.item_to_proto(found), judged_count=found.judged_count, waiting_count=found.waiting_count
        )

    async def RecordComparisonVote(self, request: pb.RecordComparisonVoteRequest, context: Context) -> Any:
        given = request.vote
        vote = await self._queues.record(
            request.parent,
            item_id=given.item_id,
            rater=current_principal().subject,
            choice=wire.choice_from_proto(given.choice),
            rating=given.rating or None,
            comment=given.comment,
        )
        return pb.RecordComparisonVoteResponse(vote=wire.vote_to_proto(vote))

    async def ListComparisonVotes(self, request: pb.ListComparisonVotesRequest, context: Context) -> Any:
        page = await self._queues.votes(request.parent, request.page_size, request.page_token)
        return pb.ListComparisonVotesResponse(
            votes=[wire.unblinded_to_proto(vote, item) for vote, item in page.items],
            next_page_token=page.next_page_token,
        )

    async def GetComparisonSummary(self, request: pb.GetComparisonSummaryRequest, context: Context) -> Any:
        judge = metric_from_name(request.judge_metric, field="judge_metric") if request.judge_metric else None
        return pb.GetComparisonSummaryResponse(
            summary=wire.summary_to_proto(await self._queues.summary(request.name, judge))
        )
