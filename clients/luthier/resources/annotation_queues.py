"""Blind comparison of answers by people (the evaluator service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import cached_property

from luthier.evaluator.v1 import annotation_queue_pb2 as pb
from luthier.evaluator.v1 import annotation_queue_service_pb2 as api
from luthier.evaluator.v1 import annotation_queue_service_pb2_grpc as rpc
from luthier.evaluator.v1 import evaluation_pb2
from luthier.resources.reading import pages
from luthier.transport import Transport, new_request_id


class AnnotationQueues:
    """`next_item` and `vote` need the scope `evaluator.rate` only; whoever has `evaluator.read` can see the arms."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.AnnotationQueueServiceAsyncStub:
        return rpc.AnnotationQueueServiceStub(self._transport.channel)

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
        """Makes a queue of a SUCCEEDED evaluation's answers. row_limit 0: every row that all arms answered."""
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
            parent=parent,
            annotation_queue=queue,
            annotation_queue_id=annotation_queue_id,
            request_id=request_id or new_request_id(),
        )
        response = await self._transport.unary(self._stub.CreateAnnotationQueue, request, timeout_s=timeout_s)
        return response.annotation_queue

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.AnnotationQueue:
        request = api.GetAnnotationQueueRequest(name=name)
        response = await self._transport.unary(self._stub.GetAnnotationQueue, request, timeout_s=timeout_s)
        return response.annotation_queue

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.AnnotationQueue]:
        """The queues of `tenants/{t}`, by name."""

        async def fetch(token: str) -> tuple[Sequence[pb.AnnotationQueue], str]:
            request = api.ListAnnotationQueuesRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListAnnotationQueues, request)
            return page.annotation_queues, page.next_page_token

        return pages(fetch)

    async def next_item(self, queue: str, *, timeout_s: float | None = None) -> api.GetNextAnnotationItemResponse:
        """An item that the caller has not judged; `item` is unset when nothing is left."""
        request = api.GetNextAnnotationItemRequest(parent=queue)
        return await self._transport.unary(self._stub.GetNextAnnotationItem, request, timeout_s=timeout_s)

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
        request = api.RecordAnnotationVoteRequest(parent=queue, vote=vote, request_id=request_id or new_request_id())
        return (await self._transport.unary(self._stub.RecordAnnotationVote, request, timeout_s=timeout_s)).vote

    def list_votes(self, queue: str, *, page_size: int = 0) -> AsyncIterator[pb.UnblindedVote]:
        """The votes with whose answers they were about."""

        async def fetch(token: str) -> tuple[Sequence[pb.UnblindedVote], str]:
            request = api.ListAnnotationVotesRequest(parent=queue, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListAnnotationVotes, request)
            return page.votes, page.next_page_token

        return pages(fetch)

    async def summary(
        self, queue: str, *, judge_metric: str = "", timeout_s: float | None = None
    ) -> pb.AnnotationSummary:
        """What the votes come to; with a metric of the evaluation as the judge, its figures corrected by them."""
        request = api.GetAnnotationSummaryRequest(name=queue, judge_metric=judge_metric)
        return (await self._transport.unary(self._stub.GetAnnotationSummary, request, timeout_s=timeout_s)).summary
