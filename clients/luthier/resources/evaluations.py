"""Evaluations (the evaluator service)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import evaluation_service_pb2 as api
from luthier.evaluator.v1 import evaluation_service_pb2_grpc as rpc
from luthier.resources.job_resource import JobResource
from luthier.resources.resource import joined


class Evaluations(JobResource["rpc.EvaluationServiceAsyncStub", pb.Evaluation, pb.EvaluationEvent]):
    _make_stub = rpc.EvaluationServiceStub
    _api, _job, _field = api, "Evaluation", "evaluation"

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
            parent=parent, evaluation=evaluation, evaluation_id=evaluation_id, request_id=request_id
        )
        return (await self._call(self._stub.CreateEvaluation, request, timeout_s)).evaluation

    def list_rows(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.EvaluationRow]:
        """The rows of a SUCCEEDED evaluation, each with every arm's answer and scores."""
        request = api.ListEvaluationRowsRequest(parent=parent, page_size=page_size)
        return self._pages(self._stub.ListEvaluationRows, request, lambda page: page.rows)

    async def read_report(self, name: str) -> bytes:
        """The self-contained HTML report of a SUCCEEDED evaluation."""
        request = api.ReadEvaluationReportRequest(name=name)
        return await joined(self._blob(self._stub.ReadEvaluationReport, request, what=f"the report of {name}"))
