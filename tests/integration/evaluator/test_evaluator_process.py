"""The evaluator as `luthier up` starts it: the server process, its worker, and the other three services faked behind
real sockets. `kill -9` of the server in the middle of an evaluation loses nothing.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import pathlib
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import psutil
import pytest
from luthier.client import AsyncClient
from luthier.config_files import load
from luthier.curation.v1 import dataset_pb2, dataset_service_pb2, dataset_service_pb2_grpc
from luthier.endpoints import Endpoints
from luthier.errors import UnavailableError
from luthier.evaluator.v1 import evaluation_pb2, gate_pb2
from luthier.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from luthier.trainer.v1 import adapter_pb2, adapter_service_pb2, adapter_service_pb2_grpc
from luthierd.config import ServerConfig
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Message
from luthierd.rpc.auth import TokenIssuer, TokenVerifier
from luthierd.rpc.keys import create_keys
from luthierd.rpc.server import Service
from luthierd.storage.blobs import BlobStore
from support.evaluator_material import FakePeers, adapter_knows
from support.ports import free_port
from support.serving import serving
from support.waiting import until

POLICY = pathlib.Path(__file__).parents[3] / "examples/policies/docstrings-gate.yaml"
SPLITS = {
    "train": dataset_pb2.SPLIT_TRAIN,
    "validation": dataset_pb2.SPLIT_VALIDATION,
    "holdout": dataset_pb2.SPLIT_HOLDOUT,
}


class OtherServices(
    dataset_service_pb2_grpc.DatasetServiceServicer,
    adapter_service_pb2_grpc.AdapterServiceServicer,
    inference_service_pb2_grpc.InferenceServiceServicer,
):
    """Curation, trainer and inference, as far as the evaluator asks them. Inference answers when `open` is set."""

    def __init__(self, blobs: BlobStore) -> None:
        self._peers = FakePeers(blobs)
        self.open = asyncio.Event()
        self.free_count = 0  # of queries that are answered before `open` is set
        self.asked_count = 0
        self.answered: collections.Counter[tuple[str, str]] = collections.Counter()

    async def GetDatasetRevision(self, request: Any, context: Any) -> Any:
        found = await self._peers.dataset_revision("acme", request.name)
        splits = [
            dataset_pb2.SplitFile(split=SPLITS[name], sha256=digest, row_count=found.row_counts[name])
            for name, digest in found.splits.items()
        ]
        state = dataset_pb2.DATASET_REVISION_STATE_READY
        revision = dataset_pb2.DatasetRevision(name=found.name, sha256=found.sha256, state=state, splits=splits)
        return dataset_service_pb2.GetDatasetRevisionResponse(revision=revision)

    async def GetAdapterRevision(self, request: Any, context: Any) -> Any:
        found = await self._peers.adapter_revision("acme", request.name)
        revision = adapter_pb2.AdapterRevision(
            name=found.name,
            sha256=found.sha256,
            base_model=found.base_model,
            base_model_sha256=found.base_model_sha256,
            dataset_revision=found.dataset_revision,
        )
        return adapter_service_pb2.GetAdapterRevisionResponse(revision=revision)

    async def Chat(self, request: Any, context: Any) -> Any:
        self.asked_count += 1
        if self.asked_count > self.free_count:
            await self.open.wait()
        self.answered[request.target.adapter_revision, str(request.messages)] += 1
        arm = Arm.ADAPTER if request.target.adapter_revision else Arm.BASE
        text = adapter_knows(arm, [Message(turn.role, turn.content) for turn in request.messages])
        finish = inference_service_pb2.Finish(finish_reason="stop", completion_token_count=9, ttft_ms=5.0)
        return inference_service_pb2.ChatResponse(text=str(text), finish=finish)


@contextlib.asynccontextmanager
async def other_services(home: pathlib.Path, others: OtherServices) -> AsyncIterator[str]:
    """All three on one address: gRPC tells them apart by name."""
    service = Service(
        name="others",
        servicers=[others],
        verifier=TokenVerifier.of(ServerConfig(home=home)),
    )
    async with serving(service, ServerConfig(home=home)) as bound:
        yield bound.address


@contextlib.asynccontextmanager
async def evaluator(environment: Mapping[str, str], log: pathlib.Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The server process; killed at the end if it still runs."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "luthierd.evaluator", env=dict(environment), stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def home(tmp_path: pathlib.Path) -> pathlib.Path:
    create_keys(tmp_path / "keys")
    return tmp_path


def environment_of(home: pathlib.Path, *, others: str, port: int) -> dict[str, str]:
    found = {key: value for key, value in os.environ.items() if not key.startswith("LUTHIER_")}
    addresses = {f"LUTHIER_{name}_ADDRESS": others for name in ("CURATION", "TRAINER", "INFERENCE")}
    return found | addresses | {"LUTHIER_HOME": str(home), "LUTHIER_EVALUATOR_PORT": str(port)}


def last_words(log: pathlib.Path) -> str:
    return log.read_text()[-2000:]


async def until_asked(others: OtherServices, log: pathlib.Path, process: asyncio.subprocess.Process) -> None:
    def asked() -> int:
        assert process.returncode is None, last_words(log)
        return others.asked_count

    await until(asked, timeout_s=120)


async def until_created(client: AsyncClient, config: evaluation_pb2.EvaluationConfig) -> evaluation_pb2.Evaluation:
    """Creates the evaluation as soon as the server answers."""

    async def created() -> evaluation_pb2.Evaluation | None:
        with contextlib.suppress(UnavailableError):
            return await client.evaluations.create(
                "tenants/acme", adapter_revision=FakePeers.adapter.name, config=config
            )
        return None

    return await until(created, timeout_s=120, interval_s=0.2)


async def test_an_evaluation_outlives_the_kill_of_its_server_and_is_judged_by_the_next_one(home: pathlib.Path) -> None:
    others = OtherServices(BlobStore(f"file://{home / 'blobs'}"))
    port, log = free_port(), home / "evaluator.log"
    token = TokenIssuer.of(ServerConfig(home=home)).issue(tenant="acme", subject="tester")
    async with (
        other_services(home, others) as address,
        AsyncClient(Endpoints(evaluator=f"127.0.0.1:{port}"), token=token) as client,
    ):
        environment = environment_of(home, others=address, port=port)
        async with evaluator(environment, log) as first:
            config = evaluation_pb2.EvaluationConfig(
                arms=[evaluation_pb2.ARM_BASE, evaluation_pb2.ARM_PROMPTED, evaluation_pb2.ARM_ADAPTER]
            )
            created = await until_created(client, config)
            await until_asked(others, log, first)
            first.kill()
            await first.wait()
        others.open.set()
        async with evaluator(environment, log) as second:
            found = await client.evaluations.wait(created.name, timeout_s=400)
            decision = await client.gates.run(created.name, policy=load(POLICY, gate_pb2.GatePolicy))
            report = await client.evaluations.read_report(created.name)
            second.terminate()
            assert await second.wait() == 0
    assert others.asked_count == 24 * 3
    assert decision.outcome == gate_pb2.GATE_OUTCOME_GO
    assert b"GO" in report
    metrics = {value.metric: value.mean for value in found.arms[2].metrics}
    assert metrics["rouge_l"] == metrics["json_valid"] == metrics["label_accuracy"] == 1.0
    assert metrics["semantic_similarity"] == pytest.approx(1.0, abs=1e-4)


async def test_no_query_is_paid_twice_when_the_worker_is_killed_while_it_asks(home: pathlib.Path) -> None:
    others = OtherServices(BlobStore(f"file://{home / 'blobs'}"))
    others.free_count = 20
    port, log = free_port(), home / "evaluator.log"
    token = TokenIssuer.of(ServerConfig(home=home)).issue(tenant="acme", subject="tester")
    async with (
        other_services(home, others) as address,
        AsyncClient(Endpoints(evaluator=f"127.0.0.1:{port}"), token=token) as client,
    ):
        environment = environment_of(home, others=address, port=port) | {"LUTHIER_EVALUATOR_LEASE_S": "3"}
        async with evaluator(environment, log) as server:
            config = evaluation_pb2.EvaluationConfig(
                arms=[evaluation_pb2.ARM_BASE, evaluation_pb2.ARM_ADAPTER],
                concurrency=4,
                sequential={},
                purpose="kill -9",
            )
            created = await until_created(client, config)
            # The first twenty answers are kept, four queries are in flight and get none: then the worker dies.
            await until_progress(client, created.name, others.free_count)
            (worker,) = psutil.Process(server.pid).children()
            worker.kill()
            others.open.set()
            found = await client.evaluations.wait(created.name, timeout_s=400)
            holdout = await client.holdouts.get(found.dataset_revision)
            looks = [look async for look in client.holdouts.list_accesses(found.dataset_revision)]
            server.terminate()
            assert await server.wait() == 0
    # The answers to the dead worker's last queries went nowhere; no other query is asked again.
    assert len(others.answered) == 24 * 2
    assert others.asked_count - 24 * 2 <= config.concurrency
    assert [decision.row_count for decision in found.sequential_decisions] == [24]
    assert holdout.use.access_count == 1
    assert [(look.subject, look.purpose) for look in looks] == [("tester", "kill -9")]


async def until_progress(client: AsyncClient, name: str, count: int) -> None:
    """Waits until the journal holds that many answers."""
    async with asyncio.timeout(120):
        async for event in client.evaluations.watch(name):
            if event.progress.done_count >= count:
                return
