"""Evaluations (the evaluator service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property

from luthier.errors import UnavailableError
from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import evaluation_service_pb2 as api
from luthier.evaluator.v1 import evaluation_service_pb2_grpc as rpc
from luthier.resources.reading import finished, joined, pages, pieces, wait_for
from luthier.transport import Transport, new_request_id

FINAL_STATES = frozenset({pb.EVALUATION_STATE_SUCCEEDED, pb.EVALUATION_STATE_FAILED, pb.EVALUATION_STATE_CANCELLED})


class Evaluations:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.EvaluationServiceAsyncStub:
        return rpc.EvaluationServiceStub(self._transport.channel)

    async def create(
        self,
        parent: str,
        *,
        adapter_revision: str,
        dataset_revision: str = "",
        config: pb.EvaluationConfig | None = None,
        evaluation_id: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.Evaluation:
        """Queues an evaluation of an adapter revision. dataset_revision empty: the one that it was trained on."""
        evaluation = pb.Evaluation(adapter_revision=adapter_revision, dataset_revision=dataset_revision, config=config)
        request = api.CreateEvaluationRequest(
            parent=parent,
            evaluation=evaluation,
            evaluation_id=evaluation_id,
            request_id=request_id or new_request_id(),
        )
        return (await self._transport.unary(self._stub.CreateEvaluation, request, timeout_s=timeout_s)).evaluation

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.Evaluation:
        request = api.GetEvaluationRequest(name=name)
        return (await self._transport.unary(self._stub.GetEvaluation, request, timeout_s=timeout_s)).evaluation

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.Evaluation]:
        """The evaluations of `tenants/{t}`, newest first."""

        async def fetch(token: str) -> tuple[Sequence[pb.Evaluation], str]:
            request = api.ListEvaluationsRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListEvaluations, request)
            return page.evaluations, page.next_page_token

        return pages(fetch)

    async def cancel(self, name: str, *, request_id: str = "", timeout_s: float | None = None) -> pb.Evaluation:
        """Asks an evaluation to end; a finished one is returned unchanged."""
        request = api.CancelEvaluationRequest(name=name, request_id=request_id or new_request_id())
        return (await self._transport.unary(self._stub.CancelEvaluation, request, timeout_s=timeout_s)).evaluation

    def watch(
        self, name: str, *, after_event_id: int = 0, on_away: Callable[[UnavailableError], None] | None = None
    ) -> AsyncIterator[pb.EvaluationEvent]:
        """Yields the evaluation's events until it is final, across restarts of the service; on_away is told of each."""

        async def is_over() -> bool:
            return (await self.get(name)).state in FINAL_STATES

        return self._transport.watch(
            self._stub.WatchEvaluation,
            lambda after: api.WatchEvaluationRequest(name=name, after_event_id=after),
            lambda message: message.event,
            after_event_id=after_event_id,
            is_final=lambda event: event.HasField("state") and event.state in FINAL_STATES,
            is_over=is_over,
            on_away=on_away,
        )

    async def wait(self, name: str, *, timeout_s: float | None = None, poll_interval_s: float = 0.5) -> pb.Evaluation:
        """Waits until the evaluation has SUCCEEDED. Raises `JobFailedError`, `JobCancelledError` or `TimeoutError`."""
        evaluation = await wait_for(
            lambda: self.get(name),
            lambda found: found.state in FINAL_STATES,
            poll_interval_s=poll_interval_s,
            timeout_s=timeout_s,
            retry=self._transport.retry,
        )
        return finished(
            evaluation,
            failed=evaluation.state == pb.EVALUATION_STATE_FAILED,
            cancelled=evaluation.state == pb.EVALUATION_STATE_CANCELLED,
        )

    def list_rows(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.EvaluationRow]:
        """The rows of a SUCCEEDED evaluation with every arm's answer and scores."""

        async def fetch(token: str) -> tuple[Sequence[pb.EvaluationRow], str]:
            request = api.ListEvaluationRowsRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListEvaluationRows, request)
            return page.rows, page.next_page_token

        return pages(fetch)

    async def read_report(self, name: str) -> bytes:
        """The self-contained HTML report of a SUCCEEDED evaluation."""

        async def fetch(offset: int) -> api.ReadEvaluationReportResponse:
            request = api.ReadEvaluationReportRequest(name=name, offset_bytes=offset)
            return await self._transport.unary(self._stub.ReadEvaluationReport, request)

        return await joined(pieces(fetch, what=f"the report of {name}"))
