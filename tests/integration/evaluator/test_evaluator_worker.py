"""The real worker process against a served inference service: `kill -9` in the middle pays no answered query twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import luthierd.evaluator
import pytest
from luthier.inference.v1 import inference_service_pb2 as pb
from luthier.inference.v1 import inference_service_pb2_grpc as rpc
from luthierd.config import ServerConfig
from luthierd.evaluator.decisions.holdout_ledger import Holdouts
from luthierd.evaluator.decisions.holdout_store import SqlLedger
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.models.sample_store import SqlSampleStore
from luthierd.evaluator.run.evaluations import Evaluations
from luthierd.jobs.queue import JobQueue, JobState
from luthierd.rpc.auth import TokenVerifier
from luthierd.rpc.keys import create_keys
from luthierd.rpc.server import Service
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from support.evaluator_material import FakePeers, adapter_knows
from support.serving import serving
from support.waiting import until

VERSIONS = pathlib.Path(luthierd.evaluator.__file__).parent / "versions"
CONCURRENCY = 4
ANSWER_TIME_S = 0.1


class CountingInference(rpc.InferenceServiceServicer):
    """Answers like an adapter that knows everything and a base that knows nothing; counts what it is asked."""

    def __init__(self, answer_time_s: float) -> None:
        self._answer_time_s = answer_time_s
        self.asked: Counter[tuple[str, str]] = Counter()

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        target = request.target.adapter_revision or request.target.base_model
        prompt = json.dumps([[turn.role, turn.content] for turn in request.messages])
        self.asked[target, prompt] += 1
        await asyncio.sleep(self._answer_time_s)
        arm = Arm.ADAPTER if request.target.adapter_revision else Arm.BASE
        text = adapter_knows(arm, [Message(turn.role, turn.content) for turn in request.messages])
        finish = pb.Finish(finish_reason="stop", prompt_token_count=40, completion_token_count=12, ttft_ms=10.0)
        return pb.ChatResponse(text=str(text), finish=finish, origin=pb.Origin(loaded_adapter="g1", base_model=target))


@contextlib.asynccontextmanager
async def inference(
    home: pathlib.Path, *, answer_time_s: float = ANSWER_TIME_S
) -> AsyncIterator[tuple[CountingInference, str]]:
    """The counting service and its address."""
    counting = CountingInference(answer_time_s)
    service = Service(
        name="inference",
        servicers=[counting],
        verifier=TokenVerifier.of(ServerConfig(home=home)),
    )
    async with serving(service, ServerConfig(home=home)) as bound:
        yield counting, bound.address


async def start_worker(name: str, home: pathlib.Path, address: str) -> asyncio.subprocess.Process:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LUTHIER_")}
    environment |= {
        "LUTHIER_HOME": str(home),
        "LUTHIER_INFERENCE_ADDRESS": address,
        "LUTHIER_EVALUATOR_INFERENCE_PATIENCE_S": "5",
    }
    log = (home / "worker.log").open("ab")
    command = (sys.executable, "-m", "luthierd.evaluator.worker", name)
    return await asyncio.create_subprocess_exec(*command, env=environment, stdout=log, stderr=log)


async def answered_count(samples: SqlSampleStore) -> int:
    return len(await samples.answers())


async def until_answered(
    count: int, samples: SqlSampleStore, worker: asyncio.subprocess.Process, home: pathlib.Path
) -> None:
    """Waits for that many answers of a worker that must not end before."""

    async def enough() -> bool:
        assert worker.returncode is None, (home / "worker.log").read_text()
        return await answered_count(samples) >= count

    await until(enough, timeout_s=90)


@pytest.fixture
async def database(tmp_path: pathlib.Path) -> AsyncIterator[Database]:
    create_keys(tmp_path / "keys")
    found = Database(f"sqlite+aiosqlite:///{tmp_path / 'evaluator.db'}", schema="evaluator")
    await found.migrate(VERSIONS)
    yield found
    await found.close()


async def create(database: Database, home: pathlib.Path, config: EvaluationConfig) -> tuple[JobQueue, str]:
    queue = JobQueue(database, lease_s=15.0)
    blobs = BlobStore(f"file://{home / 'blobs'}")
    peers = FakePeers(blobs, holdout=30)
    evaluations = Evaluations(
        queue, peers, blobs, wake=lambda: None, holdouts=Holdouts(SqlLedger(database), peers, blobs)
    )
    created = await evaluations.create(
        "tenants/acme", adapter_revision=FakePeers.adapter.name, dataset_revision="", config=config
    )
    return queue, created.name


async def test_a_killed_worker_s_answers_are_kept_and_no_answered_query_is_paid_twice(
    database: Database, tmp_path: pathlib.Path
) -> None:
    arms = (Arm.BASE, Arm.PROMPTED, Arm.ADAPTER)
    config = EvaluationConfig(arms=arms, concurrency=CONCURRENCY, resample_count=200)
    queue, name = await create(database, tmp_path, config)
    samples = SqlSampleStore(database, name)
    async with inference(tmp_path) as (counting, address):
        first = await start_worker(name, tmp_path, address)
        await until_answered(40, samples, first, tmp_path)
        first.kill()
        await first.wait()
        kept = {(answer.arm, answer.row_id): answer for answer in await samples.answers()}
        asked_before = counting.asked.total()
        assert 40 <= len(kept) < 90
        assert asked_before - len(kept) <= CONCURRENCY

        await queue.worker_died(name, token_before=0)
        second = await start_worker(name, tmp_path, address)
        async with asyncio.timeout(400):
            assert await second.wait() == 0, (tmp_path / "worker.log").read_text()

    assert counting.asked.total() - asked_before == 90 - len(kept)
    after = {(answer.arm, answer.row_id): answer for answer in await samples.answers()}
    assert len(after) == 90
    assert {key: after[key] for key in kept} == kept
    job = await queue.get(name)
    assert job.state is JobState.SUCCEEDED
    assert job.attempt_count == 2
    assert job.result is not None
    metrics = {(found["arm"], found["metric"]): found["value"] for found in job.result["overall"]["metrics"]}
    assert metrics["adapter", "rouge_l"] == 1.0
    assert metrics["adapter", "semantic_similarity"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["base", "json_valid"] == 0.0


async def test_a_running_evaluation_ends_within_seconds_of_a_cancel(database: Database, tmp_path: pathlib.Path) -> None:
    config = EvaluationConfig(arms=(Arm.BASE,), concurrency=1, resample_count=200)
    queue, name = await create(database, tmp_path, config)
    samples = SqlSampleStore(database, name)
    async with inference(tmp_path, answer_time_s=1.0) as (_, address):
        worker = await start_worker(name, tmp_path, address)
        await until_answered(2, samples, worker, tmp_path)
        await queue.cancel(name)

        async def ended() -> bool:
            return (await queue.get(name)).state.is_final

        await until(ended, timeout_s=8)
        assert await worker.wait() == 0
    assert (await queue.get(name)).state is JobState.CANCELLED
    assert await answered_count(samples) < 30


async def test_a_dead_inference_service_fails_the_evaluation_with_what_to_do(
    database: Database, tmp_path: pathlib.Path
) -> None:
    queue, name = await create(database, tmp_path, EvaluationConfig(arms=(Arm.BASE,)))
    async with inference(tmp_path) as (_, address):
        pass
    worker = await start_worker(name, tmp_path, address)
    async with asyncio.timeout(90):
        assert await worker.wait() == 0
    job = await queue.get(name)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["reason"] == "INFERENCE_AWAY"
    assert job.error["code"] == grpc.StatusCode.UNAVAILABLE.name
