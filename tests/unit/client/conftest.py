"""Small fake services on real sockets: they record requests and give scripted answers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import luthier
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from luthier.curation.v1 import dataset_pb2, dataset_service_pb2, dataset_service_pb2_grpc
from luthier.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from luthier.status import DETAILS_KEY
from luthier.trainer.v1 import training_job_pb2, training_job_service_pb2, training_job_service_pb2_grpc

QUICK = luthier.RetryPolicy(max_attempts=4, initial_backoff_s=0.01, max_backoff_s=0.02, reconnect_s=2.0)


def refusal(
    code: grpc.StatusCode, reason: str, *, retry_after_s: float | None = None, field: str = "", **metadata: str
) -> tuple[grpc.StatusCode, str, Any]:
    """Arguments of `context.abort` as our services make them."""
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain="trainer.luthier.dev", metadata=metadata)]
    if retry_after_s is not None:
        delay = duration_pb2.Duration(seconds=int(retry_after_s), nanos=int(retry_after_s % 1 * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description="too large", reason="RANGE")
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    status = status_pb2.Status(code=code.value[0], message=f"refused: {reason}")
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return code, status.message, ((DETAILS_KEY, status.SerializeToString()), ("x-request-id", "r-1"))


class Scripted:
    """refusals: answers of the next calls, in order, before calls succeed. asked: every request."""

    def __init__(self) -> None:
        self.refusals: list[tuple[grpc.StatusCode, str, Any]] = []
        self.asked: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.remaining_s: list[float | None] = []

    async def take(self, request: Any, context: Any) -> None:
        self.asked.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining_s.append(context.time_remaining())
        if self.refusals:
            await context.abort(*self.refusals.pop(0))


class FakeTrainer(Scripted, training_job_service_pb2_grpc.TrainingJobServiceServicer):
    """watches: for each watch, in order, the events it sends; an exception-like tuple among them ends it by abort."""

    def __init__(self) -> None:
        super().__init__()
        self.job = training_job_pb2.TrainingJob(state=training_job_pb2.TRAINING_JOB_STATE_SUCCEEDED)
        self.watches: list[list[Any]] = []
        self.page_count = 3

    async def CreateTrainingJob(self, request: Any, context: Any) -> Any:
        await self.take(request, context)
        return training_job_service_pb2.CreateTrainingJobResponse(training_job=request.training_job)

    async def GetTrainingJob(self, request: Any, context: Any) -> Any:
        await self.take(request, context)
        self.job.name = request.name
        return training_job_service_pb2.GetTrainingJobResponse(training_job=self.job)

    async def ListTrainingJobs(self, request: Any, context: Any) -> Any:
        await self.take(request, context)
        page = int(request.page_token or 0)
        jobs = [training_job_pb2.TrainingJob(name=f"{request.parent}/trainingJobs/j{page}{i}") for i in range(2)]
        token = str(page + 1) if page + 1 < self.page_count else ""
        return training_job_service_pb2.ListTrainingJobsResponse(training_jobs=jobs, next_page_token=token)

    async def WatchTrainingJob(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self.take(request, context)
        for item in self.watches.pop(0):
            if isinstance(item, tuple):
                await context.abort(*item)
            yield training_job_service_pb2.WatchTrainingJobResponse(event=item)


class FakeCuration(Scripted, dataset_service_pb2_grpc.DatasetServiceServicer):
    """content: what ReadDatasetRevision serves, ten bytes at a time; sha256: what it says of it."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: list[bytes] = []
        self.content = b""
        self.sha256: str | None = None

    async def ImportDataset(self, requests: Any, context: Any) -> Any:
        header, *rest = [request async for request in requests]
        await self.take(header, context)
        self.uploads.append(b"".join(request.data for request in rest))
        name = f"{header.header.parent}/datasets/{header.header.dataset_id}"
        return dataset_service_pb2.ImportDatasetResponse(dataset=dataset_pb2.Dataset(name=name))

    async def ReadDatasetRevision(self, request: Any, context: Any) -> Any:
        await self.take(request, context)
        return dataset_service_pb2.ReadDatasetRevisionResponse(
            data=self.content[request.offset_bytes : request.offset_bytes + 10],
            size_bytes=len(self.content),
            sha256=self.sha256 or hashlib.sha256(self.content).hexdigest(),
        )


class FakeInference(Scripted, inference_service_pb2_grpc.InferenceServiceServicer):
    """stream: messages of a stream; a tuple ends it by abort. given_up: the caller left before the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stream: list[Any] = []
        self.given_up = asyncio.Event()

    async def Chat(self, request: Any, context: Any) -> Any:
        await self.take(request, context)
        origin = inference_service_pb2.Origin(loaded_adapter="g-1", deployment_revision=3)
        return inference_service_pb2.ChatResponse(text=request.messages[-1].content.upper(), origin=origin)

    async def BatchGenerate(self, request: Any, context: Any) -> Any:
        await self.take(request, context)
        return inference_service_pb2.BatchGenerateResponse()

    async def Score(self, request: Any, context: Any) -> Any:
        await self.take(request, context)
        return inference_service_pb2.ScoreResponse()

    async def ChatStream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self.take(request, context)
        ended = False
        try:
            for item in self.stream:
                if isinstance(item, tuple):
                    await context.abort(*item)
                yield inference_service_pb2.ChatStreamResponse(delta=item)
            ended = True
        finally:
            if not ended:
                self.given_up.set()


class Installation:
    """Three fakes behind one server, and clients for it."""

    def __init__(self, address: str, trainer: FakeTrainer, curation: FakeCuration, inference: FakeInference) -> None:
        self.trainer, self.curation, self.inference = trainer, curation, inference
        self.endpoints = luthier.Endpoints(curation=address, trainer=address, inference=address)


@contextlib.asynccontextmanager
async def installed() -> AsyncIterator[Installation]:
    server = grpc.aio.server()
    trainer, curation, inference = FakeTrainer(), FakeCuration(), FakeInference()
    training_job_service_pb2_grpc.add_TrainingJobServiceServicer_to_server(trainer, server)
    dataset_service_pb2_grpc.add_DatasetServiceServicer_to_server(curation, server)
    inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Installation(f"127.0.0.1:{port}", trainer, curation, inference)
    finally:
        await server.stop(None)


@pytest.fixture
async def installation() -> AsyncIterator[Installation]:
    async with installed() as found:
        yield found


@pytest.fixture
async def client(installation: Installation) -> AsyncIterator[luthier.AsyncClient]:
    async with luthier.AsyncClient(installation.endpoints, "a-token", retry=QUICK) as found:
        yield found


@pytest.fixture
def refuse() -> Callable[..., tuple[grpc.StatusCode, str, Any]]:
    return refusal
