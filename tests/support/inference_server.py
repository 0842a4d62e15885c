"""One inference server for the whole run: its own process, the real engine, a tiny base model, adapters of two tenants.

Everything but the trainer is real: sockets, tokens, SQLite, blobs, vLLM. The trainer is a stand-in that knows the
revisions which the tests make.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

import grpc
import httpx
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from luthier.inference.v1 import engine_service_pb2, engine_service_pb2_grpc
from luthier.services import SCOPES
from luthier.trainer.v1 import (
    adapter_pb2,
    adapter_service_pb2,
    adapter_service_pb2_grpc,
    base_model_pb2,
    base_model_service_pb2,
    base_model_service_pb2_grpc,
)
from luthierd.config import ServerConfig
from luthierd.rpc.auth import TokenIssuer
from luthierd.rpc.keys import create_keys
from luthierd.storage.blobs import BlobStore
from luthierd.storage.manifests import put_folder

from support import tiny_model
from support.ports import free_port

BASE = "baseModels/tiny"
START_TIMEOUT_S = 180.0


class Trainer(adapter_service_pb2_grpc.AdapterServiceServicer, base_model_service_pb2_grpc.BaseModelServiceServicer):
    """Knows what it was told."""

    def __init__(self) -> None:
        self.revisions: dict[str, adapter_pb2.AdapterRevision] = {}
        self.models: dict[str, base_model_pb2.BaseModel] = {}

    def GetAdapterRevision(
        self, request: adapter_service_pb2.GetAdapterRevisionRequest, context: grpc.ServicerContext
    ) -> adapter_service_pb2.GetAdapterRevisionResponse:
        if request.name not in self.revisions:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such revision")
        return adapter_service_pb2.GetAdapterRevisionResponse(revision=self.revisions[request.name])

    def GetBaseModel(
        self, request: base_model_service_pb2.GetBaseModelRequest, context: grpc.ServicerContext
    ) -> base_model_service_pb2.GetBaseModelResponse:
        if request.name not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return base_model_service_pb2.GetBaseModelResponse(base_model=self.models[request.name])


class InferenceServer:
    """The server's process and what it stands on. `restart` after a kill; `add_revision` as a training would."""

    def __init__(
        self,
        folder: pathlib.Path,
        trainer: Trainer,
        trainer_port: int,
        *,
        base_model: pathlib.Path | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """`base_model`: a Hugging Face folder, else a tiny model is made; `settings`: by field of `InferenceConfig`."""
        self.folder, self.trainer = folder, trainer
        self.blobs = BlobStore(f"file://{folder / 'blobs'}")
        create_keys(folder / "keys")
        self.issuer = TokenIssuer.of(ServerConfig(home=folder))
        self.port, self.http_port, self.metrics_port = free_port(), free_port(), free_port()
        self.environment = os.environ | {
            "LUTHIER_HOME": str(folder),
            "LUTHIER_INFERENCE_PORT": str(self.port),
            "LUTHIER_INFERENCE_HTTP_PORT": str(self.http_port),
            "LUTHIER_INFERENCE_METRICS_PORT": str(self.metrics_port),
            "LUTHIER_TRAINER_ADDRESS": f"127.0.0.1:{trainer_port}",
            "LUTHIER_INFERENCE_DTYPE": "float32",
            "LUTHIER_INFERENCE_GRACE_S": "2",
            "LUTHIER_INFERENCE_MAX_ADAPTER_BYTES": str(8 * 2**20),
            **{f"LUTHIER_INFERENCE_{name.upper()}": str(value) for name, value in (settings or {}).items()},
        }
        self.log = folder / "inference.log"
        self.process: subprocess.Popen[bytes] | None = None
        made = base_model or tiny_model.write_base_model(folder / "made/base")
        sha256 = put_folder(self.blobs, made).sha256
        self.base_sha256 = sha256
        trainer.models[BASE] = base_model_pb2.BaseModel(
            name=BASE, sha256=sha256, state=base_model_pb2.BASE_MODEL_STATE_READY
        )

    def add_revision(self, tenant: str, revision: str, *, seed: int, adapter: str = "style", **options: object) -> str:
        """Makes an adapter, stores it and has the trainer know it; its name."""
        folder = self.folder / "made" / f"{tenant}-{adapter}-{revision}"
        tiny_model.write_adapter(folder, seed=seed, **options)  # type: ignore[arg-type]
        return self.register(f"tenants/{tenant}/adapters/{adapter}/revisions/{revision}", folder)

    def register(self, name: str, folder: pathlib.Path) -> str:
        """Stores a folder as an adapter revision."""
        sha256 = put_folder(self.blobs, folder).sha256
        self.trainer.revisions[name] = adapter_pb2.AdapterRevision(
            name=name, sha256=sha256, base_model=BASE, base_model_sha256=self.base_sha256
        )
        return name

    def token(self, tenant: str) -> str:
        """A bearer token of a tenant."""
        return self.issuer.issue(tenant=tenant, subject="tester", scopes=SCOPES, ttl_s=3600)

    def start(self) -> None:
        """Starts the server, chooses its base model and waits until it serves."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "luthierd.inference"], stdout=output, stderr=output, env=self.environment
            )
        self._wait_serving()
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            metadata = [("authorization", f"Bearer {self.token('operator')}")]
            request = engine_service_pb2.StartEngineRequest(base_model=BASE)
            engine_service_pb2_grpc.EngineServiceStub(channel).StartEngine(request, metadata=metadata, timeout=30)
        self._wait_serving()

    def _wait_serving(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_serving():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server does not serve:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)

    def is_serving(self) -> bool:
        """What its health says."""
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
            except grpc.RpcError:
                return False
            return answer.status == health_pb2.HealthCheckResponse.SERVING

    async def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        async with httpx.AsyncClient() as client:
            page = (await client.get(f"http://127.0.0.1:{self.metrics_port}/metrics")).text
        return next(float(line.split()[1]) for line in page.splitlines() if line.startswith(f"{name} "))

    def engine_process(self) -> psutil.Process:
        """The process that holds the model."""
        assert self.process is not None
        below = psutil.Process(self.process.pid).children(recursive=True)
        return next(process for process in below if "EngineCore" in process.name() + " ".join(process.cmdline()))

    def kill(self) -> None:
        """`kill -9` of the server."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Ends it in the ordinary way; its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=60)


@contextlib.contextmanager
def running_server(
    folder: pathlib.Path, *, base_model: pathlib.Path | None = None, **settings: object
) -> Iterator[InferenceServer]:
    """A running server with a stand-in for the trainer; `base_model` and `settings`: see `InferenceServer`."""
    trainer = Trainer()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    adapter_service_pb2_grpc.add_AdapterServiceServicer_to_server(trainer, server)
    base_model_service_pb2_grpc.add_BaseModelServiceServicer_to_server(trainer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    made = InferenceServer(folder, trainer, port, base_model=base_model, settings=settings)
    made.start()
    try:
        yield made
    finally:
        code = made.stop()
        server.stop(0)
    assert code == 0, made.log.read_text()[-2000:]
