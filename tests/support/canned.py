"""Services over all contracts whose every method answers what the test put there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf import message_factory
from luthier.curation.v1 import dataset_service_pb2
from luthier.evaluator.v1 import (
    annotation_queue_service_pb2,
    challenge_set_service_pb2,
    evaluation_service_pb2,
    gate_service_pb2,
    holdout_service_pb2,
    prompt_service_pb2,
    verdict_service_pb2,
)
from luthier.inference.v1 import (
    deployment_service_pb2,
    engine_service_pb2,
    feedback_service_pb2,
    inference_service_pb2,
    tenant_service_pb2,
)
from luthier.storage.v1 import storage_service_pb2
from luthier.trainer.v1 import (
    adapter_import_service_pb2,
    adapter_service_pb2,
    base_model_service_pb2,
    training_job_service_pb2,
)

CONTRACTS = (
    dataset_service_pb2,
    training_job_service_pb2,
    adapter_import_service_pb2,
    adapter_service_pb2,
    base_model_service_pb2,
    evaluation_service_pb2,
    gate_service_pb2,
    holdout_service_pb2,
    prompt_service_pb2,
    verdict_service_pb2,
    annotation_queue_service_pb2,
    challenge_set_service_pb2,
    deployment_service_pb2,
    engine_service_pb2,
    inference_service_pb2,
    feedback_service_pb2,
    tenant_service_pb2,
    verdict_service_pb2,
    storage_service_pb2,
)


class Canned(grpc.GenericRpcHandler):
    """answers: by method, fields of the response; a list of them for a stream, an abort's arguments to refuse.

    asked: every request, by method. A stream whose answer ends with `...` stays open; left: its caller gave up.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: dict[str, list[Any]] = {}
        self.left = asyncio.Event()
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
                    try:
                        await asyncio.Event().wait()
                    finally:
                        self.left.set()
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


@contextlib.asynccontextmanager
async def serving(canned: Canned, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[str]:
    """The address at which `canned` answers while the block runs."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((canned,))
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
