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
from luthierd.evaluator.codec import from_json, to_json
from luthierd.evaluator.config import EvaluatorConfig
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.run.evaluations import KIND
from luthierd.jobs.worker import JobContext, Outcome, run_job
from luthierd.paging import PageRequest
from luthierd.storage.database import Database

from support.evaluator_material import FakePeers, ScriptedModel, adapter_knows, quick_run
from support.evaluator_service import evaluator_parts
from support.serving import ISSUER, serving

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
    created = asyncio.Event()
    parts = evaluator_parts(database, folder, holdout=holdout, wake=created.set)
    queue = parts.queue

    async def evaluate(context: JobContext) -> Outcome:
        config = from_json(EvaluationConfig, context.job.payload["config"])
        chat_model = ScriptedModel(adapter_knows)
        run = quick_run(context.job.name, parts.peers, parts.blobs, config=config, chat_model=chat_model)
        return Outcome(to_json(await run.run()))

    async def work() -> None:
        while True:
            await created.wait()
            created.clear()
            for job in (await queue.list(f"{TENANT}/", PageRequest.parse(0, "", TENANT), kind=KIND)).items:
                if not job.state.is_final:
                    await run_job(queue, job.name, evaluate)

    worker = asyncio.create_task(work())
    try:
        async with serving(parts.service, EvaluatorConfig(home=folder)) as bound:
            yield GateHouse(bound.address, ISSUER.issue(tenant="acme", subject="ci"))
    finally:
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker
