"""Job resources: the answer has the resource in field 1, events become messages of the resource's own kind."""

from __future__ import annotations

import asyncio

import pytest
from luthier.trainer.v1 import training_job_pb2 as pb
from luthier.trainer.v1 import training_job_service_pb2 as api
from luthierd.errors import NotFoundError
from luthierd.jobs.queue import JobEvent, JobQueue, JobState
from luthierd.paging import Page
from luthierd.rpc.job_resource import JobResource, event_to_proto
from luthierd.rpc.wire import timestamp

NAME = "tenants/acme/trainingJobs/j1"


class Names:
    """Use cases whose resource is a name."""

    async def get(self, name: str) -> str:
        if name != NAME:
            raise NotFoundError(f"no {name}")
        return name

    async def list(self, parent: str, page_size: int, page_token: str) -> Page[str]:
        return Page((f"{parent}/trainingJobs/{page_size}", f"{parent}/trainingJobs/{page_token}"), "next")

    async def cancel(self, name: str) -> str:
        return f"{name}/cancelled"


@pytest.fixture
def resource(queue: JobQueue) -> JobResource[str]:
    return JobResource(Names(), queue, asyncio.Event(), to_proto=lambda name: pb.TrainingJob(name=name))


@pytest.fixture
async def queue(database) -> JobQueue:
    made = JobQueue(database, lease_s=15.0)
    await made.submit(NAME, "train", {})
    await made.cancel(NAME)
    return made


async def test_an_answer_has_the_resource(resource: JobResource[str]) -> None:
    got = await resource.get(api.GetTrainingJobRequest(name=NAME), api.GetTrainingJobResponse)
    assert got == api.GetTrainingJobResponse(training_job=pb.TrainingJob(name=NAME))
    ended = await resource.cancel(api.CancelTrainingJobRequest(name=NAME), api.CancelTrainingJobResponse)
    assert ended.training_job.name == f"{NAME}/cancelled"


async def test_a_list_has_the_page_and_the_next_token(resource: JobResource[str]) -> None:
    request = api.ListTrainingJobsRequest(parent="tenants/acme", page_size=2, page_token="t")
    found = await resource.list(request, api.ListTrainingJobsResponse)
    assert [job.name for job in found.training_jobs] == ["tenants/acme/trainingJobs/2", "tenants/acme/trainingJobs/t"]
    assert found.next_page_token == "next"


async def test_a_watch_gives_the_events_after_an_id_until_the_job_is_final(resource: JobResource[str]) -> None:
    request = api.WatchTrainingJobRequest(name=NAME, after_event_id=1)
    responses = [answer async for answer in resource.watch(request, api.WatchTrainingJobResponse, told)]
    assert [(answer.event.event_id, answer.event.state) for answer in responses] == [
        (2, pb.TRAINING_JOB_STATE_CANCELLED)
    ]


async def test_a_watch_of_an_unknown_resource_raises_the_resources_own_error(resource: JobResource[str]) -> None:
    request = api.WatchTrainingJobRequest(name=f"{NAME}x")
    with pytest.raises(NotFoundError, match="no tenants"):
        await anext(resource.watch(request, api.WatchTrainingJobResponse, told))


def told(event: JobEvent | None) -> pb.TrainingJobEvent | None:
    return event_to_proto(pb.TrainingJobEvent, event, progress=lambda data: pb.TrainingProgress(**data))


def test_an_event_fills_the_field_of_its_kind() -> None:
    assert told(JobEvent(3, 1.5, "progress", {"step": 7})) == pb.TrainingJobEvent(
        event_id=3, create_time=timestamp(1.5), progress=pb.TrainingProgress(step=7)
    )
    assert told(JobEvent(4, 1.5, "message", {"message": "checkpoint"})).message == "checkpoint"
    assert told(JobEvent(5, 1.5, "weather", {})) is None


def test_a_state_can_have_another_name_in_the_contract() -> None:
    event = event_to_proto(
        pb.TrainingJobEvent,
        JobEvent(1, 1.5, "state", {"state": "QUEUED"}),
        progress=lambda data: pb.TrainingProgress(),
        state={JobState.QUEUED: pb.TRAINING_JOB_STATE_RUNNING}.__getitem__,
    )
    assert event.state == pb.TRAINING_JOB_STATE_RUNNING


def test_a_heartbeat_has_no_id() -> None:
    heartbeat = told(None)
    assert heartbeat.HasField("heartbeat")
    assert heartbeat.event_id == 0
