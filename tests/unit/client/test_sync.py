"""The client without await, against a server on another loop."""

from __future__ import annotations

import asyncio
import inspect
import pathlib
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import luthier
import pytest
from luthier import errors
from luthier.blocking import LoopThread, blocking
from luthier.resources.resource import Resource
from luthier.trainer.v1 import training_job_pb2 as pb
from luthier.transport import Transport

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
        methods, made = public_methods(getattr(plain, noun)), public_methods(getattr(waiting, noun))
        assert methods.keys() == made.keys()
        for name, method in methods.items():
            assert made[name].__doc__ == method.__doc__
            assert inspect.signature(made[name]) == inspect.signature(method)
    await asyncio.to_thread(waiting.close)


def public_methods(noun: object) -> dict[str, Any]:
    found = inspect.getmembers(type(noun), inspect.isfunction)
    return {name: method for name, method in found if not name.startswith("_")}


def test_both_clients_take_the_same_arguments():
    assert inspect.signature(luthier.Client) == inspect.signature(luthier.AsyncClient)


async def test_a_method_that_a_noun_gains_is_there_without_await():
    class Noun(Resource[Any]):
        async def answer(self, question: str) -> str:
            """Answers."""
            return question.upper()

        async def words(self, text: str) -> AsyncIterator[str]:
            for word in text.split():
                yield word

    def work() -> None:
        thread = LoopThread()
        noun: Any = blocking(Noun)(Noun(Transport("trainer", "")), thread)
        assert noun.answer("why") == "WHY"
        assert list(noun.words("a b")) == ["a", "b"]
        thread.close()

    await asyncio.to_thread(work)


def test_the_types_of_the_client_without_await_are_current():
    script = pathlib.Path(__file__).parents[3] / "scripts" / "sync_stub.py"
    done = subprocess.run([sys.executable, script, "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
