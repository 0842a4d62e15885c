"""Watching and waiting for work that takes long."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from luthier import errors
from luthier.trainer.v1 import training_job_pb2 as pb

JOB = "tenants/acme/trainingJobs/j1"


def step(event_id: int) -> pb.TrainingJobEvent:
    return pb.TrainingJobEvent(event_id=event_id, progress=pb.TrainingProgress(step=event_id))


def final(event_id: int) -> pb.TrainingJobEvent:
    return pb.TrainingJobEvent(event_id=event_id, state=pb.TRAINING_JOB_STATE_SUCCEEDED)


HEARTBEAT = pb.TrainingJobEvent(heartbeat=pb.TrainingJobHeartbeat())


async def test_a_watch_goes_on_after_the_last_event_when_the_service_comes_back(client, installation, refuse):
    away = refuse(grpc.StatusCode.UNAVAILABLE, "DRAINING")
    installation.trainer.watches = [[step(1), HEARTBEAT, step(2), away], [away], [step(3), final(4)]]
    outages = []
    seen = [event.event_id async for event in client.training_jobs.watch(JOB, on_away=outages.append)]
    assert seen == [1, 2, 3, 4]
    assert [error.reason for error in outages] == ["DRAINING"]
    assert [request.after_event_id for request in installation.trainer.asked] == [0, 2, 2]


async def test_a_watch_begins_after_the_event_that_the_caller_knows(client, installation):
    installation.trainer.watches = [[final(8)]]
    assert [event.event_id async for event in client.training_jobs.watch(JOB, after_event_id=7)] == [8]
    assert installation.trainer.asked[0].after_event_id == 7


async def test_a_stream_that_ends_early_is_opened_again_unless_the_job_is_over(client, installation):
    installation.trainer.job.state = pb.TRAINING_JOB_STATE_RUNNING
    installation.trainer.watches = [[step(1)], [final(2)]]
    assert [event.event_id async for event in client.training_jobs.watch(JOB)] == [1, 2]
    installation.trainer.job.state = pb.TRAINING_JOB_STATE_SUCCEEDED
    installation.trainer.watches = [[]]
    assert [event.event_id async for event in client.training_jobs.watch(JOB, after_event_id=2)] == []


async def test_a_watch_of_an_unknown_job_fails_at_once(client, installation, refuse):
    installation.trainer.refusals = [refuse(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")]
    with pytest.raises(errors.NotFoundError):
        await anext(client.training_jobs.watch(JOB))


async def test_waiting_returns_the_finished_job_and_bears_with_a_restart(client, installation, refuse):
    installation.trainer.refusals = [refuse(grpc.StatusCode.UNAVAILABLE, "DRAINING")] * 6
    job = await client.training_jobs.wait(JOB, poll_interval_s=0.01)
    assert job.state == pb.TRAINING_JOB_STATE_SUCCEEDED


async def test_waiting_for_a_job_that_fails_raises_the_jobs_own_reason(client, installation):
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason="ROW_TOO_LONG", metadata={"row": "r7"}))
    installation.trainer.job.state = pb.TRAINING_JOB_STATE_FAILED
    installation.trainer.job.error.CopyFrom(status_pb2.Status(code=3, message="row r7 is too long", details=[packed]))
    with pytest.raises(errors.JobFailedError, match="row r7 is too long") as caught:
        await client.training_jobs.wait(JOB)
    assert (caught.value.reason, caught.value.metadata) == ("ROW_TOO_LONG", {"row": "r7"})
    assert caught.value.job.name == JOB


async def test_waiting_for_a_job_that_is_cancelled_says_so(client, installation):
    installation.trainer.job.state = pb.TRAINING_JOB_STATE_CANCELLED
    with pytest.raises(errors.JobCancelledError):
        await client.training_jobs.wait(JOB)


async def test_waiting_ends_at_its_own_limit(client, installation):
    installation.trainer.job.state = pb.TRAINING_JOB_STATE_RUNNING
    with pytest.raises(TimeoutError):
        await client.training_jobs.wait(JOB, timeout_s=0.1, poll_interval_s=0.02)
