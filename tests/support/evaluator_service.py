"""The served evaluator over fake neighbours: the real server and store, jobs run in the test."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import evaluation_service_pb2 as api
from luthier.evaluator.v1 import evaluation_service_pb2_grpc as rpc
from luthier.evaluator.v1 import gate_service_pb2_grpc as gate_rpc
from luthier.evaluator.v1 import holdout_service_pb2_grpc as holdout_rpc
from luthier.evaluator.v1 import prompt_service_pb2_grpc as prompt_rpc
from luthier.evaluator.v1 import verdict_service_pb2_grpc as verdict_rpc
from luthierd.codec import from_json, to_json
from luthierd.evaluator.build import build
from luthierd.evaluator.config import EvaluatorConfig
from luthierd.evaluator.decisions.holdout_store import SqlLedger
from luthierd.evaluator.domain.evaluation import EvaluationConfig, Progress
from luthierd.jobs.launcher import Launcher
from luthierd.jobs.queue import JobQueue
from luthierd.jobs.worker import JobContext, Outcome, run_job
from luthierd.rpc.server import Service
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database

from support.evaluator_material import FakePeers, ScriptedModel, quick_run
from support.serving import VERIFIER, bearer, running

PARENT = "tenants/acme"
ADAPTER = FakePeers.adapter.name


@dataclass
class Server:
    """The served evaluator, and what is behind it."""

    channel: grpc.aio.Channel
    evaluations: rpc.EvaluationServiceStub
    gates: gate_rpc.GateServiceStub
    verdicts: verdict_rpc.VerdictServiceStub
    holdouts: holdout_rpc.HoldoutServiceStub
    ledger: SqlLedger
    prompts: prompt_rpc.PromptServiceStub
    queue: JobQueue
    peers: FakePeers
    blobs: BlobStore

    async def create(self, **config: Any) -> pb.Evaluation:
        settings = pb.EvaluationConfig(resample_count=200, **config)
        request = api.CreateEvaluationRequest(
            parent=PARENT, evaluation=pb.Evaluation(adapter_revision=ADAPTER, config=settings)
        )
        response = await self.evaluations.CreateEvaluation(request, metadata=bearer())
        return response.evaluation  # type: ignore[no-any-return]

    async def work(self, name: str, *, chat_model: ScriptedModel | None = None) -> None:
        """What the worker process does, over fakes."""

        async def job(context: JobContext) -> Outcome:
            config = from_json(EvaluationConfig, context.job.payload["config"])

            def progress(found: Progress) -> None:
                context.emit("progress", to_json(found))

            run = quick_run(
                name,
                self.peers,
                self.blobs,
                config=config,
                chat_model=chat_model,
                progress=progress,
                ledger=self.ledger,
            )
            return Outcome(to_json(await run.run()))

        await run_job(self.queue, name, job)

    async def evaluate(self, *, chat_model: ScriptedModel | None = None, **config: Any) -> str:
        """The name of a SUCCEEDED evaluation."""
        name = (await self.create(**config)).name
        await self.work(name, chat_model=chat_model)
        return str(name)

    async def get(self, name: str) -> pb.Evaluation:
        response = await self.evaluations.GetEvaluation(api.GetEvaluationRequest(name=name), metadata=bearer())
        return response.evaluation  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Parts:
    """The evaluator's service over fake neighbours, and what is behind it."""

    service: Service
    queue: JobQueue
    peers: FakePeers
    blobs: BlobStore
    ledger: SqlLedger


async def evaluator_parts(
    database: Database,
    folder: pathlib.Path,
    *,
    holdout: int,
    launcher: Callable[[JobQueue, FakePeers, BlobStore], Launcher] | None = None,
) -> Parts:
    """`holdout`: rows that are asked, three to a group. No worker starts unless `launcher` starts it."""
    config = EvaluatorConfig(home=folder, worker_count=0)
    blobs = BlobStore.of(config)
    peers, queue = FakePeers(blobs, holdout=holdout), JobQueue(database, lease_s=config.lease_s)
    service = await build(
        config,
        database=database,
        verifier=VERIFIER,
        peers=peers,
        launcher=launcher(queue, peers, blobs) if launcher else None,
    )
    return Parts(service, queue, peers, blobs, SqlLedger(database))


@contextlib.asynccontextmanager
async def served(database: Database, folder: pathlib.Path, *, holdout: int = 24) -> AsyncIterator[Server]:
    """`holdout`: rows that are asked, three to a group."""
    parts = await evaluator_parts(database, folder, holdout=holdout)
    async with running(parts.service, EvaluatorConfig(home=folder)) as channel:
        yield Server(
            channel=channel,
            evaluations=rpc.EvaluationServiceStub(channel),
            gates=gate_rpc.GateServiceStub(channel),
            verdicts=verdict_rpc.VerdictServiceStub(channel),
            holdouts=holdout_rpc.HoldoutServiceStub(channel),
            ledger=parts.ledger,
            prompts=prompt_rpc.PromptServiceStub(channel),
            queue=parts.queue,
            peers=parts.peers,
            blobs=parts.blobs,
        )


def method(server: Server, name: str) -> Any:
    """The RPC of that name, of whichever service has it."""
    stubs = (server.evaluations, server.gates, server.verdicts, server.holdouts)
    return next(getattr(stub, name) for stub in stubs if hasattr(stub, name))


async def refused(call: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value
