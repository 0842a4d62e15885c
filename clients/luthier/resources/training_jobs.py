"""Training jobs (the trainer service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property

from luthier.errors import UnavailableError
from luthier.resources.reading import finished, pages, wait_for
from luthier.trainer.v1 import training_job_pb2 as pb
from luthier.trainer.v1 import training_job_service_pb2 as api
from luthier.trainer.v1 import training_job_service_pb2_grpc as rpc
from luthier.transport import Transport, new_request_id

FINAL_STATES = frozenset(
    {pb.TRAINING_JOB_STATE_SUCCEEDED, pb.TRAINING_JOB_STATE_FAILED, pb.TRAINING_JOB_STATE_CANCELLED}
)


class TrainingJobs:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.TrainingJobServiceAsyncStub:
        return rpc.TrainingJobServiceStub(self._transport.channel)

    async def create(
        self,
        parent: str,
        *,
        adapter: str,
        base_model: str,
        dataset_revision: str,
        config: pb.TrainingConfig | None = None,
        training_job_id: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.TrainingJob:
        """Queues a run that adds a revision to `adapter`. What was queued survives the death of any process."""
        job = pb.TrainingJob(adapter=adapter, base_model=base_model, dataset_revision=dataset_revision, config=config)
        request = api.CreateTrainingJobRequest(
            parent=parent,
            training_job=job,
            training_job_id=training_job_id,
            request_id=request_id or new_request_id(),
        )
        return (await self._transport.unary(self._stub.CreateTrainingJob, request, timeout_s=timeout_s)).training_job

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.TrainingJob:
        request = api.GetTrainingJobRequest(name=name)
        return (await self._transport.unary(self._stub.GetTrainingJob, request, timeout_s=timeout_s)).training_job

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.TrainingJob]:
        """The jobs of `tenants/{t}`, newest first."""

        async def fetch(token: str) -> tuple[Sequence[pb.TrainingJob], str]:
            request = api.ListTrainingJobsRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListTrainingJobs, request)
            return page.training_jobs, page.next_page_token

        return pages(fetch)

    async def cancel(self, name: str, *, request_id: str = "", timeout_s: float | None = None) -> pb.TrainingJob:
        """Asks a job to end; a finished job is returned unchanged."""
        request = api.CancelTrainingJobRequest(name=name, request_id=request_id or new_request_id())
        return (await self._transport.unary(self._stub.CancelTrainingJob, request, timeout_s=timeout_s)).training_job

    def watch(
        self, name: str, *, after_event_id: int = 0, on_away: Callable[[UnavailableError], None] | None = None
    ) -> AsyncIterator[pb.TrainingJobEvent]:
        """Yields the job's events until it is final, across restarts of the service; on_away is told of each."""

        async def is_over() -> bool:
            return (await self.get(name)).state in FINAL_STATES

        return self._transport.watch(
            self._stub.WatchTrainingJob,
            lambda after: api.WatchTrainingJobRequest(name=name, after_event_id=after),
            lambda message: message.event,
            after_event_id=after_event_id,
            is_final=lambda event: event.HasField("state") and event.state in FINAL_STATES,
            is_over=is_over,
            on_away=on_away,
        )

    async def wait(self, name: str, *, timeout_s: float | None = None, poll_interval_s: float = 0.5) -> pb.TrainingJob:
        """Waits until the job has SUCCEEDED. Raises `JobFailedError`, `JobCancelledError` or `TimeoutError`."""
        job = await wait_for(
            lambda: self.get(name),
            lambda found: found.state in FINAL_STATES,
            poll_interval_s=poll_interval_s,
            timeout_s=timeout_s,
            retry=self._transport.retry,
        )
        return finished(
            job,
            failed=job.state == pb.TRAINING_JOB_STATE_FAILED,
            cancelled=job.state == pb.TRAINING_JOB_STATE_CANCELLED,
        )
