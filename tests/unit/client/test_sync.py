"""The face without await, against a server on another loop."""

from __future__ import annotations

import asyncio

import luthier
import pytest
from luthier import errors
from luthier.trainer.v1 import training_job_pb2 as pb

JOB = "tenants/acme/trainingJobs/j1"


async def test_the_sync_client_calls_lists_watches_and_streams(installation):
    installation.trainer.watches = [[pb.TrainingJobEvent(event_id=1, state=pb.TRAINING_JOB_STATE_SUCCEEDED)]]
    installation.inference.stream = ["a", "b"]

    def work() -> None:
        with luthier.Client(installation.endpoints, "t") as client:
            assert client.training_jobs.get(JOB).name == JOB
            assert client.training_jobs.wait(JOB).name == JOB
            assert len(list(client.training_jobs.list("tenants/acme"))) == 6
            assert [event.event_id for event in client.training_jobs.watch(JOB)] == [1]
            deltas = [message.delta for message in client.inference.chat_stream("baseModels/m", "x")]
            assert deltas == ["a", "b"]
            with client.inference.chat_stream("baseModels/m", "x") as stream:
                assert next(stream).delta == "a"

    await asyncio.to_thread(work)


async def test_the_sync_client_raises_the_same_errors(installation):
    def work() -> None:
        with luthier.Client(installation.endpoints, "t") as client, pytest.raises(errors.InvalidNameError):
            client.inference.chat("nonsense", "x")

    await asyncio.to_thread(work)


async def test_both_clients_have_the_same_nouns_and_methods(installation):
    plain, waiting = luthier.AsyncClient(installation.endpoints, "t"), luthier.Client(installation.endpoints, "t")
    nouns = {name for name in vars(plain) if not name.startswith("_")} - {"endpoints"}
    assert nouns == {name for name in vars(waiting) if not name.startswith("_")} - {"endpoints"}
    for noun in nouns:
        methods = {name for name in vars(type(getattr(plain, noun))) if not name.startswith("_")}
        assert methods == {name for name in vars(type(getattr(waiting, noun))) if not name.startswith("_")}
        for method in methods:
            promised = getattr(getattr(plain, noun), method).__doc__
            assert getattr(getattr(waiting, noun), method).__doc__ == promised
    await asyncio.to_thread(waiting.close)
