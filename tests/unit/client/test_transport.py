"""Unary calls: retries, deadlines, tokens, typed errors."""

from __future__ import annotations

import time

import grpc
import luthier
import pytest
from luthier import errors

JOB = "tenants/acme/trainingJobs/j1"
CREATE = {
    "adapter": "tenants/acme/adapters/a",
    "base_model": "baseModels/m",
    "dataset_revision": "tenants/acme/datasets/d/revisions/r1",
}


async def test_an_unavailable_service_is_asked_again_with_the_same_request_id(client, installation, refuse):
    installation.trainer.refusals = [refuse(grpc.StatusCode.UNAVAILABLE, "DRAINING")] * 2
    await client.training_jobs.create("tenants/acme", **CREATE)
    asked = installation.trainer.asked
    assert len(asked) == 3
    assert len({request.request_id for request in asked}) == 1
    assert asked[0].request_id


async def test_retries_end_after_the_attempts_of_the_policy(client, installation, refuse):
    installation.trainer.refusals = [refuse(grpc.StatusCode.UNAVAILABLE, "DRAINING")] * 9
    with pytest.raises(errors.UnavailableError) as caught:
        await client.training_jobs.get(JOB)
    assert caught.value.reason == "DRAINING"
    assert len(installation.trainer.asked) == 4


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, errors.NotFoundError),
        (grpc.StatusCode.ABORTED, errors.AbortedError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhaustedError),
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDeniedError),
        (grpc.StatusCode.INTERNAL, errors.InternalError),
    ],
)
async def test_other_statuses_are_raised_at_once_as_their_class(client, installation, refuse, code, kind):
    installation.trainer.refusals = [refuse(code, "SOME_REASON", job=JOB, retry_after_s=1.5)]
    with pytest.raises(kind) as caught:
        await client.training_jobs.get(JOB)
    error = caught.value
    assert (error.code, error.reason, error.domain) == (code.name, "SOME_REASON", "trainer.luthier.dev")
    assert (error.metadata, error.retry_after_s) == ({"job": JOB}, 1.5)
    assert (error.service, error.method, error.request_id) == ("trainer", "GetTrainingJob", "r-1")
    assert len(installation.trainer.asked) == 1


async def test_an_invalid_argument_carries_its_field_violations(client, installation, refuse):
    installation.trainer.refusals = [refuse(grpc.StatusCode.INVALID_ARGUMENT, "BAD", field="training_job.config.rank")]
    with pytest.raises(errors.InvalidArgumentError) as caught:
        await client.training_jobs.create("tenants/acme", **CREATE)
    assert caught.value.field_violations == (errors.FieldViolation("training_job.config.rank", "too large", "RANGE"),)


async def test_the_delay_that_the_service_asks_for_is_honoured_and_is_no_attempt(client, installation, refuse):
    installation.trainer.refusals = [refuse(grpc.StatusCode.UNAVAILABLE, "ENGINE_STARTING", retry_after_s=0.05)] * 6
    started = time.monotonic()
    await client.training_jobs.get(JOB)
    assert time.monotonic() - started >= 0.3
    assert len(installation.trainer.asked) == 7


async def test_no_retry_goes_beyond_the_total_deadline(client, installation, refuse):
    installation.trainer.refusals = [refuse(grpc.StatusCode.UNAVAILABLE, "ENGINE_STARTING", retry_after_s=5)] * 3
    started = time.monotonic()
    with pytest.raises(errors.UnavailableError):
        await client.training_jobs.get(JOB, timeout_s=0.5)
    assert time.monotonic() - started < 0.5
    assert len(installation.trainer.asked) == 1


async def test_every_call_has_the_deadline_of_its_method(client, installation):
    await client.training_jobs.get(JOB)
    await client.training_jobs.create("tenants/acme", **CREATE)
    await client.training_jobs.get(JOB, timeout_s=3)
    assert installation.trainer.remaining_s == pytest.approx([30, 60, 3], abs=1)


async def test_a_dead_service_is_named_with_its_address_and_how_to_start_it(installation):
    endpoints = luthier.Endpoints(trainer="127.0.0.1:1")
    async with luthier.AsyncClient(endpoints, "t", retry=luthier.RetryPolicy(max_attempts=1)) as client:
        told = r"trainer service at 127\.0\.0\.1:1 .*`luthier up`"
        with pytest.raises(errors.UnavailableError, match=told) as caught:
            await client.training_jobs.get(JOB)
    assert caught.value.reason == "SERVICE_UNREACHABLE"
    assert caught.value.metadata == {"service": "trainer", "address": "127.0.0.1:1"}


async def test_a_service_without_an_address_is_named_before_any_call(installation):
    async with luthier.AsyncClient(installation.endpoints, "t") as client:
        with pytest.raises(errors.ProfileError, match="evaluator"):
            await client.evaluations.get("tenants/acme/evaluations/e")


async def test_a_token_source_is_asked_before_every_call(installation):
    tokens = iter(["one", "two"])

    async def next_token() -> str:
        return next(tokens)

    async with luthier.AsyncClient(installation.endpoints, next_token) as client:
        await client.training_jobs.get(JOB)
        await client.training_jobs.get(JOB)
        await client.with_token("other").training_jobs.get(JOB)
    sent = [metadata["authorization"] for metadata in installation.trainer.metadata]
    assert sent == ["Bearer one", "Bearer two", "Bearer other"]
    assert len({metadata["x-request-id"] for metadata in installation.trainer.metadata}) == 3


async def test_a_list_reads_every_page(client, installation):
    found = [job.name.rpartition("/")[2] async for job in client.training_jobs.list("tenants/acme", page_size=2)]
    assert found == ["j00", "j01", "j10", "j11", "j20", "j21"]
    assert [request.page_token for request in installation.trainer.asked] == ["", "1", "2"]
    assert {request.page_size for request in installation.trainer.asked} == {2}
