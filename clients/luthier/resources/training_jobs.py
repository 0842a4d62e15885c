"""Training jobs (the trainer service)."""

from __future__ import annotations

from luthier.resources.job_resource import JobResource
from luthier.trainer.v1 import training_job_pb2 as pb
from luthier.trainer.v1 import training_job_service_pb2 as api
from luthier.trainer.v1 import training_job_service_pb2_grpc as rpc


class TrainingJobs(JobResource["rpc.TrainingJobServiceAsyncStub", pb.TrainingJob, pb.TrainingJobEvent]):
    _make_stub = rpc.TrainingJobServiceStub
    _api, _job, _field = api, "TrainingJob", "training_job"

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
        """Queues a job that adds a revision to `adapter`. A queued job survives the restart of any process."""
        job = pb.TrainingJob(adapter=adapter, base_model=base_model, dataset_revision=dataset_revision, config=config)
        request = api.CreateTrainingJobRequest(
            parent=parent, training_job=job, training_job_id=training_job_id, request_id=request_id
        )
        return (await self._call(self._stub.CreateTrainingJob, request, timeout_s)).training_job
