"""A served evaluator that runs every evaluation it is given, over scripted answers: for what talks to it from
outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from luthierd.codec import from_json, to_json
from luthierd.evaluator.config import EvaluatorConfig
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.run.evaluations import KIND
from luthierd.jobs.launcher import Launcher
from luthierd.jobs.queue import JobQueue
from luthierd.jobs.worker import JobContext, Outcome, run_job
from luthierd.paging import PageRequest
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database

from support.evaluator_material import FakePeers, ScriptedModel, adapter_knows, quick_run
from support.evaluator_service import evaluator_parts
from support.serving import ISSUER, serving

TENANT = "tenants/acme"
ADAPTER = FakePeers.adapter.name


@dataclass(frozen=True)
class RunningEvaluator:
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


class JobsInThisProcess(Launcher):
    """Runs every evaluation in the test's process, over scripted answers."""

    def __init__(self, queue: JobQueue, peers: FakePeers, blobs: BlobStore) -> None:
        self._queue, self._peers, self._blobs = queue, peers, blobs
        self._created = asyncio.Event()

    def wake(self) -> None:
        self._created.set()

    async def run(self) -> None:
        while True:
            await self._created.wait()
            self._created.clear()
            for job in (await self._queue.list(f"{TENANT}/", PageRequest.parse(0, "", TENANT), kind=KIND)).items:
                if not job.state.is_final:
                    await run_job(self._queue, job.name, self._evaluate)

    async def _evaluate(self, context: JobContext) -> Outcome:
        config = from_json(EvaluationConfig, context.job.payload["config"])
        scripted = ScriptedModel(adapter_knows)
        run = quick_run(context.job.name, self._peers, self._blobs, config=config, chat_model=scripted)
        return Outcome(to_json(await run.run()))


@contextlib.asynccontextmanager
async def running_evaluator(folder: pathlib.Path, *, holdout: int = 36) -> AsyncIterator[RunningEvaluator]:
    """The evaluator while the block runs. The adapter answers with the references, the other arms with prose."""
    database = Database(f"sqlite+aiosqlite:///{folder / 'evaluator.db'}", schema="evaluator")
    parts = await evaluator_parts(database, folder, holdout=holdout, launcher=JobsInThisProcess)
    async with serving(parts.service, EvaluatorConfig(home=folder)) as bound:
        yield RunningEvaluator(bound.address, ISSUER.issue(tenant="acme", subject="ci"))
