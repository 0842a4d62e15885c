"""A trainer of its own process beside a curation that knows one dataset: what tests of the trainer's processes need."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
from luthier import AsyncClient, Endpoints
from luthier.curation.v1 import dataset_pb2, dataset_service_pb2, dataset_service_pb2_grpc
from luthier.services import SCOPES
from luthierd.config import ServerConfig
from luthierd.errors import NotFoundError
from luthierd.rpc.auth import TokenIssuer, TokenVerifier
from luthierd.rpc.keys import create_keys
from luthierd.rpc.server import Service
from luthierd.storage.blobs import BlobStore

from support.serving import serving
from support.toy_rows import rows_jsonl, toy_rows
from support.waiting import until

DATASET = "tenants/acme/datasets/toys/revisions/r1"
START_TIMEOUT_S = 120.0


class OneDataset(dataset_service_pb2_grpc.DatasetServiceServicer):
    """Curation as the trainer sees it."""

    def __init__(self, revisions: dict[str, dataset_pb2.DatasetRevision]) -> None:
        self._revisions = revisions

    async def GetDatasetRevision(
        self, request: dataset_service_pb2.GetDatasetRevisionRequest, context: Any
    ) -> dataset_service_pb2.GetDatasetRevisionResponse:
        if request.name not in self._revisions:
            raise NotFoundError(f"there is no {request.name}", metadata={"dataset_revision": request.name})
        return dataset_service_pb2.GetDatasetRevisionResponse(revision=self._revisions[request.name])


def revision_of(
    name: str, blobs: BlobStore, *, train: list[dict[str, Any]], validation: list[dict[str, Any]]
) -> dataset_pb2.DatasetRevision:
    """Stores the splits and describes them as curation does."""
    splits = []
    for split, rows in ((dataset_pb2.SPLIT_TRAIN, train), (dataset_pb2.SPLIT_VALIDATION, validation)):
        blob = blobs.put_bytes(rows_jsonl(rows))
        splits.append(
            dataset_pb2.SplitFile(split=split, sha256=blob.sha256, size_bytes=blob.size_bytes, row_count=len(rows))
        )
    return dataset_pb2.DatasetRevision(
        name=name, state=dataset_pb2.DATASET_REVISION_STATE_READY, sha256="d" * 64, splits=splits
    )


@dataclasses.dataclass
class Installation:
    """A trainer's home, its process, and a client that talks to it."""

    home: pathlib.Path
    curation_address: str
    port: int
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def blobs(self) -> BlobStore:
        return BlobStore(f"file://{self.home / 'blobs'}")

    def start(self) -> None:
        """Starts the API process; it starts workers."""
        environment = os.environ | {
            "LUTHIER_HOME": str(self.home),
            "LUTHIER_TRAINER_PORT": str(self.port),
            "LUTHIER_TRAINER_IMPORT_ROOTS": "/",
            "LUTHIER_TRAINER_LEASE_S": "4",
            "LUTHIER_CURATION_ADDRESS": self.curation_address,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            **self.environment,
        }
        with (self.home / "api.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "luthierd.trainer"], env=environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """Kill -9 of the API process."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def client(self, tenant: str = "acme") -> AsyncClient:
        issuer = TokenIssuer.of(ServerConfig(home=self.home))
        token = issuer.issue(tenant=tenant, subject="tester", scopes=SCOPES, ttl_s=3600.0)
        return AsyncClient(Endpoints(trainer=f"127.0.0.1:{self.port}"), token=token)

    async def ready(self) -> None:
        """Waits until the API process answers."""
        async with asyncio.timeout(START_TIMEOUT_S), grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            await channel.channel_ready()

    def stop(self) -> None:
        """Ends the API process and what is left of its workers."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=30)
        for pid in self.worker_pids():
            os.kill(pid, signal.SIGKILL)

    def worker_pids(self) -> list[int]:
        """Workers of this home."""
        return list(_worker_pids(str(self.home)))

    async def kill_worker(self) -> None:
        """Kill -9 of the worker at work."""
        (pid,) = self.worker_pids()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: pid not in self.worker_pids())


def _worker_pids(home: str) -> Iterator[int]:
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if b"luthierd.trainer.worker" not in (entry / "cmdline").read_bytes():
                continue
            if f"LUTHIER_HOME={home}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)


@contextlib.asynccontextmanager
async def installation(
    home: pathlib.Path, *, port: int, train_count: int = 24, environment: dict[str, str] | None = None
) -> AsyncIterator[Installation]:
    """A trainer that runs, with the dataset `DATASET` of toy rows."""
    home.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
    create_keys(home / "keys")
    blobs = BlobStore(f"file://{home / 'blobs'}")
    long_rows = toy_rows(3)
    long_rows[1]["messages"][0]["content"] = "far too long " * 100
    validation = toy_rows(4, split="validation")
    revisions = {
        DATASET: revision_of(DATASET, blobs, train=toy_rows(train_count), validation=validation),
        DATASET.replace("toys", "long"): revision_of(
            DATASET.replace("toys", "long"), blobs, train=long_rows, validation=validation
        ),
    }
    service = Service(
        name="curation",
        servicers=[OneDataset(revisions)],
        verifier=TokenVerifier.of(ServerConfig(home=home)),
    )
    async with serving(service, ServerConfig(home=home)) as bound:
        made = Installation(home, bound.address, port, environment or {})
        made.start()
        try:
            await made.ready()
            yield made
        finally:
            made.stop()


def adapter_files(blobs: BlobStore, sha256: str) -> dict[str, str]:
    """Digests of an artifact's files by path."""
    manifest = json.loads(blobs.read_bytes(sha256))
    return {path: entry["sha256"] for path, entry in manifest["files"].items()}
