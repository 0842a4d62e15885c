"""A small installation over real sockets: curation, trainer and evaluator, and the storage service of inference.

No worker and no engine runs: the methods write what these would have written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import luthier
import sqlalchemy as sa
from luthier.services import SCOPES, SERVICES
from luthierd.codec import to_json
from luthierd.curation.build import build as build_curation
from luthierd.curation.config import CurationConfig
from luthierd.curation.domain import RevisionContent, Split, SplitFile
from luthierd.curation.store import set_latest_revision
from luthierd.evaluator.build import build as build_evaluator
from luthierd.evaluator.config import EvaluatorConfig
from luthierd.inference.build import VERSIONS as INFERENCE_VERSIONS
from luthierd.inference.config import InferenceConfig
from luthierd.inference.deployments.references import REFERRERS, ROOTS
from luthierd.inference.deployments.store import SqlStore
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel, Deployment
from luthierd.jobs.queue import JobQueue, JobState
from luthierd.rpc.auth import TokenIssuer, TokenVerifier
from luthierd.rpc.keys import create_keys
from luthierd.rpc.peers import endpoints_of
from luthierd.rpc.server import Service
from luthierd.rpc.storage_service import Storage
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.manifests import Manifest
from luthierd.storage.tombstones import Tombstones
from luthierd.trainer.build import build as build_trainer
from luthierd.trainer.config import TrainerConfig
from luthierd.trainer.domain.base_model import BaseModelInfo, ImportSource
from luthierd.trainer.store import SqlStore as TrainerStore
from luthierd.trainer.store import add_adapter_revision, set_base_model_info

from support.ports import free_ports
from support.serving import serving

ACME = "tenants/acme"
MODEL = "baseModels/tiny"
CONFIGS = {
    "curation": CurationConfig,
    "trainer": TrainerConfig,
    "evaluator": EvaluatorConfig,
    "inference": InferenceConfig,
}


@dataclass
class Installation:
    """What runs, and what is behind it. `stacks`: closing one stops its service."""

    home: pathlib.Path
    client: luthier.AsyncClient
    blobs: BlobStore
    databases: dict[str, Database]
    stacks: dict[str, contextlib.AsyncExitStack] = field(default_factory=dict)

    def queue(self, service: str) -> JobQueue:
        return JobQueue(self.databases[service], lease_s=30.0)

    async def curated(self, dataset: str = "docs", text: str = "a") -> str:
        """A READY revision of the tenant's dataset, with blobs of its own."""
        name = f"{ACME}/datasets/{dataset}"
        await self.client.datasets.import_rows(name, [{"prompt": f"{text}?", "completion": text}])
        revision = (await self.client.datasets.curate(name)).name
        files = [self.blobs.put_bytes(f"{text} {split}\n".encode()) for split in Split]
        content = RevisionContent(
            sha256="5" * 64,
            splits=tuple(
                SplitFile(split, blob.sha256, blob.size_bytes, 1, 1) for split, blob in zip(Split, files, strict=True)
            ),
            stages=(),
            datasheet_sha256=self.blobs.put_bytes(f"{text} datasheet".encode()).sha256,
        )
        queue = self.queue("curation")
        lease = await queue.claim(revision)
        assert lease
        async with queue.finishing(lease, JobState.SUCCEEDED, result=to_json(content)) as tx:
            await set_latest_revision(tx, revision)
        return revision

    async def imported(self, name: str = MODEL, weights: bytes = b"base weights") -> None:
        """A READY base model of two files."""
        queue = self.queue("trainer")
        store = TrainerStore(self.databases["trainer"], queue)
        job = f"{name}/imports/i{time.monotonic_ns()}"
        source = ImportSource(kind="path", value="/tiny", label="path:tiny")
        assert await store.start_import(name, source, job=job, replaces=None, now=1.0)
        info = BaseModelInfo(
            sha256=self.artifact(weights, b"config"),
            tokenizer_sha256="b" * 64,
            chat_template_sha256="c" * 64,
            architecture="LlamaForCausalLM",
            parameter_count=5,
            context_window_tokens=512,
            size_bytes=9,
        )
        lease = await queue.claim(job)
        assert lease
        async with queue.finishing(lease, JobState.SUCCEEDED, result=to_json(info)) as tx:
            await set_base_model_info(tx, name, info)

    def artifact(self, *contents: bytes) -> str:
        """The digest of a manifest of files with these contents."""
        files = {f"file{number}": self.blobs.put_bytes(content) for number, content in enumerate(contents)}
        return self.blobs.put_bytes(Manifest(files).to_json()).sha256

    async def queued(self, revision: str, job: str = "t1") -> str:
        """A training job that waits."""
        created = await self.client.training_jobs.create(
            ACME,
            adapter=f"{ACME}/adapters/support",
            base_model=MODEL,
            dataset_revision=revision,
            training_job_id=job,
        )
        return created.name

    async def trained(self, revision: str, job: str = "t1") -> str:
        """The adapter revision of a finished training job."""
        queue, name = self.queue("trainer"), await self.queued(revision, job)
        lease = await queue.claim(name)
        assert lease
        sha256 = self.artifact(f"weights of {job}".encode())
        content = {
            "size_bytes": 3,
            "base_model": MODEL,
            "base_model_sha256": (await self.client.base_models.get(MODEL)).sha256,
            "dataset_revision": revision,
            "dataset_sha256": "5" * 64,
            "rank": 16,
            "target_modules": ["q_proj"],
            "validation_loss": None,
        }
        async with queue.finishing(lease, JobState.SUCCEEDED, result={"sha256": sha256}) as tx:
            return await add_adapter_revision(
                tx, f"{ACME}/adapters/support", job=name, sha256=sha256, content=content, now=1.0
            )

    async def evaluated(self, adapter_revision: str, evaluation: str = "e1", *, is_finished: bool = True) -> str:
        """An evaluation, by what the other services see of it."""
        queue, name = self.queue("evaluator"), f"{ACME}/evaluations/{evaluation}"
        await queue.submit(name, "evaluation", {"inputs": {"adapter_revision": adapter_revision}})
        if is_finished:
            lease = await queue.claim(name)
            assert lease
            async with queue.finishing(lease, JobState.FAILED, error={"code": "INTERNAL"}):
                pass
        return name

    async def deployed(self, adapter_revision: str, name: str = "live") -> str:
        """A deployment of an adapter revision."""
        found = await self.client.adapters.get_revision(adapter_revision)
        live = AdapterRevision(found.name, found.sha256, BaseModel(MODEL, found.base_model_sha256))
        deployment = Deployment(name=f"{ACME}/deployments/{name}", create_time=1.0, update_time=1.0, live=live)
        await SqlStore(self.databases["inference"]).create(deployment)
        return deployment.name

    async def stop(self, service: str) -> None:
        await self.stacks[service].aclose()

    async def age(self, days: float = 30) -> None:
        """Makes every blob and every tombstone older."""
        long_ago = time.time() - days * 86400
        for path in (self.home / "blobs").glob("*/*"):
            os.utime(path, (long_ago, long_ago))
        older = sa.text("UPDATE tombstones SET delete_time = delete_time - :seconds").bindparams(seconds=days * 86400)
        for database in self.databases.values():
            await database.execute(older)


@contextlib.asynccontextmanager
async def installation(home: pathlib.Path, **settings: Any) -> AsyncIterator[Installation]:
    """Runs the services below `home` while the block runs. `settings`: of every service."""
    create_keys(home / "keys")
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    configs = {name: kind(home=home, worker_count=0, addresses=addresses, **settings) for name, kind in CONFIGS.items()}
    configs["trainer"] = dataclasses.replace(configs["trainer"], import_roots=str(home))
    databases = {name: Database.of(config, name) for name, config in configs.items()}
    services = {
        "curation": await build_curation(configs["curation"], database=databases["curation"]),
        "trainer": await build_trainer(configs["trainer"], database=databases["trainer"]),
        "evaluator": await build_evaluator(configs["evaluator"], database=databases["evaluator"]),
        "inference": await _inference(configs["inference"], databases["inference"]),
    }
    token = TokenIssuer.of(configs["curation"]).issue(tenant="acme", subject="ada", scopes=SCOPES)
    endpoints = luthier.Endpoints(**addresses)
    retry = luthier.RetryPolicy(max_attempts=1, reconnect_s=0.0)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(luthier.AsyncClient(endpoints, token, retry=retry))
        made = Installation(home, client, BlobStore.of(configs["curation"]), databases)
        for name, service in services.items():
            made.stacks[name] = await stack.enter_async_context(contextlib.AsyncExitStack())
            await made.stacks[name].enter_async_context(serving(service, configs[name], port=ports[name]))
        write_record(home, addresses)
        yield made


async def _inference(config: InferenceConfig, database: Database) -> Service:
    """Its storage service only: what it refers to is in its tables."""
    await database.migrate(INFERENCE_VERSIONS)
    client = luthier.AsyncClient(endpoints_of(config), token="")
    storage = Storage.of(
        config, "inference", database, client=client, referrers=REFERRERS, roots=ROOTS, copies=["inference/adapters"]
    )
    return Service(
        name="inference",
        servicers=[storage.servicer],
        verifier=TokenVerifier.of(config),
        tombstones=Tombstones(database),
        close=[client.close, database.close],
    )


def write_record(home: pathlib.Path, addresses: dict[str, str]) -> None:
    """What `luthier up` writes, for the command line."""
    (home / "run").mkdir(exist_ok=True)
    services = {name: {"address": address} for name, address in addresses.items()}
    record = {"services": services, "signing_key": str(home / "keys/private.pem")}
    (home / "run/installation.json").write_text(json.dumps(record))
