"""The command against canned services: every method of every contract answers what the test put there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from luthier.cli import main
from luthier.curation.v1 import dataset_service_pb2
from luthier.evaluator.v1 import evaluation_service_pb2, gate_service_pb2
from luthier.inference.v1 import deployment_service_pb2, engine_service_pb2, inference_service_pb2
from luthier.trainer.v1 import adapter_service_pb2, base_model_service_pb2, training_job_service_pb2

CONTRACTS = (
    dataset_service_pb2,
    training_job_service_pb2,
    adapter_service_pb2,
    base_model_service_pb2,
    evaluation_service_pb2,
    gate_service_pb2,
    deployment_service_pb2,
    engine_service_pb2,
    inference_service_pb2,
)
SERVICES = ("curation", "trainer", "evaluator", "inference")


class Canned(grpc.GenericRpcHandler):
    """answers: by method, fields of the response; a list of them for a stream, an abort's arguments to refuse.

    asked: every request, by method. A stream whose answer ends with `...` stays open.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: dict[str, list[Any]] = {}
        self.methods = {
            f"/{service.full_name}/{method.name}": method
            for contract in CONTRACTS
            for service in contract.DESCRIPTOR.services_by_name.values()
            for method in service.methods
        }

    def service(self, call: Any) -> Any:
        if call.method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(_serving)
        return self._handler(self.methods[call.method])

    def _handler(self, method: Any) -> Any:
        request_type = message_factory.GetMessageClass(method.input_type)
        response_type = message_factory.GetMessageClass(method.output_type)
        options = {
            "request_deserializer": request_type.FromString,
            "response_serializer": response_type.SerializeToString,
        }

        async def unary(request: Any, context: Any) -> Any:
            self.asked.setdefault(method.name, []).append(request)
            answer = self.answers.get(method.name, {})
            if isinstance(answer, tuple):
                await context.abort(*answer)
            return response_type(**answer)

        async def upload(requests: Any, context: Any) -> Any:
            return await unary([request async for request in requests], context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            self.asked.setdefault(method.name, []).append(request)
            for answer in self.answers.get(method.name, []):
                if answer is ...:
                    await asyncio.Event().wait()
                if isinstance(answer, tuple):
                    await context.abort(*answer)
                yield response_type(**answer)

        if method.client_streaming:
            return grpc.stream_unary_rpc_method_handler(upload, **options)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, **options)
        return grpc.unary_unary_rpc_method_handler(unary, **options)


async def _serving(request: bytes, context: Any) -> bytes:
    return b"\x08\x01"  # HealthCheckResponse(status=SERVING)


@dataclass
class Run:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Luthier = Callable[..., Awaitable[Run]]


@pytest.fixture
async def services(tmp_path, monkeypatch) -> AsyncIterator[Canned]:
    """Canned services, and an installation file that leads to them."""
    canned = Canned()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((canned,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)
    found = {"services": {name: {"pid": 1, "address": f"127.0.0.1:{port}"} for name in SERVICES}}
    (home / "run" / "installation.json").write_text(json.dumps(found))
    for variable in ("LUTHIER_ENDPOINT", "LUTHIER_TENANT", "LUTHIER_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LUTHIER_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("LUTHIER_TENANT", "acme")
    monkeypatch.setenv("LUTHIER_TOKEN", "a-token")
    yield canned
    await server.stop(None)


@pytest.fixture
def luthier(capsys) -> Luthier:
    """Runs a command line in this process, on a thread: the services are on this test's loop."""

    async def run(*arguments: object) -> Run:
        capsys.readouterr()
        code = await asyncio.to_thread(main.run, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return run
