"""A served evaluator that runs every evaluation it is given, over scripted answers: for what talks to it from
outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import luthierd.evaluator
from evaluator_material import FakePeers, ScriptedAnswerer, adapter_knows, quick_run
from luthier.evaluator.v1 import (
    evaluation_service_pb2_grpc,
    gate_service_pb2_grpc,
    holdout_service_pb2_grpc,
    verdict_service_pb2_grpc,
)
from luthierd.evaluator import service as servicers
from luthierd.evaluator.codec import from_json, to_json
from luthierd.evaluator.config import EvaluatorConfig
from luthierd.evaluator.domain import EvaluationConfig
from luthierd.evaluator.evaluations import KIND, Evaluations
from luthierd.evaluator.holdout_service import HoldoutServicer
from luthierd.evaluator.holdout_store import SqlLedger
from luthierd.evaluator.holdouts import Holdouts
from luthierd.evaluator.policies import GatePolicies
from luthierd.evaluator.store import SqlPolicyStore
from luthierd.evaluator.verdict_service import VerdictServicer
from luthierd.evaluator.verdicts import Verdicts
from luthierd.jobs.queue import JobQueue
from luthierd.jobs.worker import JobContext, Outcome, run_job
from luthierd.rpc.paging import PageRequest
from luthierd.rpc.server import Service, Servicer
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.replays import SqlReplayStore
from serving import ISSUER, VERIFIER, serving

VERSIONS = pathlib.Path(luthierd.evaluator.__file__).parent / "versions"
TENANT = "tenants/acme"
ADAPTER = FakePeers.adapter.name


@dataclass(frozen=True)
class GateHouse:
    """Where the evaluator is, as the command takes it (`HOST:PORT` of an installation), and a token for it."""

    address: str
    token: str

    @property
    def endpoint(self) -> str:
        """The evaluator is the third of an installation's ports."""
        host, _, port = self.address.rpartition(":")
        return f"{host}:{int(port) - 2}"

    @property
    def environment(self) -> dict[str, str]:
        return {"LUTHIER_ENDPOINT": self.endpoint, "LUTHIER_TOKEN": self.token, "LUTHIER_TENANT": "acme"}


@contextlib.asynccontextmanager
async def gate_house(folder: pathlib.Path, *, holdout: int = 36) -> AsyncIterator[GateHouse]:
    """The house while the block runs. The adapter answers with the references, the other arms with prose."""
    database = Database(f"sqlite+aiosqlite:///{folder / 'evaluator.db'}", schema="evaluator")
    await database.migrate(VERSIONS)
    queue = JobQueue(database, lease_s=15.0)
    blobs = BlobStore(f"file://{folder / 'blobs'}")
    peers = FakePeers(blobs, holdout=holdout)
    created = asyncio.Event()
    holdouts = Holdouts(SqlLedger(database), peers, blobs)
    evaluations = Evaluations(queue, peers, blobs, wake=created.set, holdouts=holdouts)
    stopping = asyncio.Event()

    async def evaluate(context: JobContext) -> Outcome:
        config = from_json(EvaluationConfig, context.job.payload["config"])
        answerer = ScriptedAnswerer(adapter_knows)
        return Outcome(to_json(await quick_run(context.job.name, peers, blobs, config=config, answerer=answerer).run()))

    async def work() -> None:
        while True:
            await created.wait()
            created.clear()
            for job in (await queue.list(f"{TENANT}/", PageRequest.parse(0, "", TENANT), kind=KIND)).items:
                if not job.state.is_final:
                    await run_job(queue, job.name, evaluate)

    service = Service(
        name="evaluator",
        servicers=[
            Servicer(
                add_to_server=evaluation_service_pb2_grpc.add_EvaluationServiceServicer_to_server,
                implementation=servicers.EvaluationServicer(evaluations, queue, stopping),
            ),
            Servicer(
                add_to_server=gate_service_pb2_grpc.add_GateServiceServicer_to_server,
                implementation=servicers.GateServicer(GatePolicies(SqlPolicyStore(database), evaluations, holdouts)),
            ),
            Servicer(
                add_to_server=verdict_service_pb2_grpc.add_VerdictServiceServicer_to_server,
                implementation=VerdictServicer(Verdicts(evaluations, peers, blobs)),
            ),
            Servicer(
                add_to_server=holdout_service_pb2_grpc.add_HoldoutServiceServicer_to_server,
                implementation=HoldoutServicer(holdouts),
            ),
        ],
        full_names=servicers.FULL_NAMES,
        scopes=servicers.SCOPES,
        limits_s=servicers.LIMITS_S,
        verifier=VERIFIER,
        replays=SqlReplayStore(database),
        close=[database.close],
        stopping=stopping,
    )
    worker = asyncio.create_task(work())
    try:
        async with serving(service, EvaluatorConfig(home=folder)) as bound:
            yield GateHouse(bound.address, ISSUER.issue(tenant="acme", subject="ci"))
    finally:
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker
