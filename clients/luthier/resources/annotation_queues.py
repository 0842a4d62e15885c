"""Blind annotation of answers by people (the evaluator service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from luthier.evaluator.v1 import annotation_queue_pb2 as pb
from luthier.evaluator.v1 import annotation_queue_service_pb2 as api
from luthier.evaluator.v1 import annotation_queue_service_pb2_grpc as rpc
from luthier.evaluator.v1 import evaluation_pb2
from luthier.resources.resource import DeletableResource


class AnnotationQueues(DeletableResource["rpc.AnnotationQueueServiceAsyncStub"]):
    """`next_item` and `vote` need only the scope `evaluator.rate`; with `evaluator.read` a caller can see the arms."""

    _make_stub = rpc.AnnotationQueueServiceStub
    _delete_request = api.DeleteAnnotationQueueRequest

    async def create(
        self,
        parent: str,
        *,
        evaluation: str,
        arms: Sequence[evaluation_pb2.Arm.ValueType],
        mode: pb.AnnotationMode.ValueType = pb.ANNOTATION_MODE_PAIRWISE,
        row_limit: int = 0,
        votes_per_item: int | None = None,
        seed: int = 0,
        shows_reference: bool = False,
        annotation_queue_id: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.AnnotationQueue:
        """Creates a queue from the answers of a SUCCEEDED evaluation. row_limit 0: every row that all arms answered."""
        queue = pb.AnnotationQueue(
            evaluation=evaluation,
            arms=arms,
            mode=mode,
            row_limit=row_limit,
            votes_per_item=votes_per_item,
            seed=seed,
            shows_reference=shows_reference,
        )
        request = api.CreateAnnotationQueueRequest(
            parent=parent, annotation_queue=queue, annotation_queue_id=annotation_queue_id, request_id=request_id
        )
        return (await self._call(self._stub.CreateAnnotationQueue, request, timeout_s)).annotation_queue

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.AnnotationQueue:
        request = api.GetAnnotationQueueRequest(name=name)
        return (await self._call(self._stub.GetAnnotationQueue, request, timeout_s)).annotation_queue

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.AnnotationQueue]:
        """The queues of `tenants/{t}`, by name."""
        request = api.ListAnnotationQueuesRequest(parent=parent, page_size=page_size)
        return self._pages(self._stub.ListAnnotationQueues, request, lambda page: page.annotation_queues)

    async def next_item(self, queue: str, *, timeout_s: float | None = None) -> api.GetNextAnnotationItemResponse:
        """An item that the caller has not judged; `item` is unset when none is left."""
        request = api.GetNextAnnotationItemRequest(parent=queue)
        return await self._call(self._stub.GetNextAnnotationItem, request, timeout_s)

    async def vote(
        self,
        queue: str,
        item_id: str,
        *,
        choice: pb.AnnotationChoice.ValueType = pb.ANNOTATION_CHOICE_UNSPECIFIED,
        rating: int = 0,
        comment: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.AnnotationVote:
        """Records the caller's vote: a choice in PAIRWISE, a rating (1 to 5) in RATING."""
        vote = pb.AnnotationVote(item_id=item_id, choice=choice, rating=rating, comment=comment)
        request = api.RecordAnnotationVoteRequest(parent=queue, vote=vote, request_id=request_id)
        return (await self._call(self._stub.RecordAnnotationVote, request, timeout_s)).vote

    def list_votes(self, queue: str, *, page_size: int = 0) -> AsyncIterator[pb.UnblindedVote]:
        """The votes, with the arms that they were about."""
        request = api.ListAnnotationVotesRequest(parent=queue, page_size=page_size)
        return self._pages(self._stub.ListAnnotationVotes, request, lambda page: page.votes)

    async def summary(
        self, queue: str, *, judge_metric: str = "", timeout_s: float | None = None
    ) -> pb.AnnotationSummary:
        """The result of the votes; with a metric of the evaluation as the judge, also its scores corrected by them."""
        request = api.GetAnnotationSummaryRequest(name=queue, judge_metric=judge_metric)
        return (await self._call(self._stub.GetAnnotationSummary, request, timeout_s)).summary
