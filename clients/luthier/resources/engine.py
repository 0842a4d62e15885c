"""The engine of the inference service."""

from __future__ import annotations

from functools import cached_property

from luthier.errors import JobFailedError
from luthier.inference.v1 import engine_service_pb2 as api
from luthier.inference.v1 import engine_service_pb2_grpc as rpc
from luthier.resources.reading import wait_for
from luthier.status import error_from_status
from luthier.transport import Transport, new_request_id


class Engine:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.EngineServiceAsyncStub:
        return rpc.EngineServiceStub(self._transport.channel)

    async def start(self, base_model: str, *, request_id: str = "", timeout_s: float | None = None) -> api.Engine:
        """Starts the engine on a base model and returns at once, STARTING or READY."""
        request = api.StartEngineRequest(base_model=base_model, request_id=request_id or new_request_id())
        return (await self._transport.unary(self._stub.StartEngine, request, timeout_s=timeout_s)).engine

    async def get(self, *, timeout_s: float | None = None) -> api.Engine:
        return (await self._transport.unary(self._stub.GetEngine, api.GetEngineRequest(), timeout_s=timeout_s)).engine

    async def wait_ready(self, *, timeout_s: float | None = None, poll_interval_s: float = 0.5) -> api.Engine:
        """Waits while the engine starts. Raises `JobFailedError` if it cannot, `TimeoutError` after `timeout_s`."""
        engine = await wait_for(
            self.get,
            lambda found: found.state in {api.ENGINE_STATE_READY, api.ENGINE_STATE_FAILED},
            poll_interval_s=poll_interval_s,
            timeout_s=timeout_s,
            retry=self._transport.retry,
        )
        if engine.state == api.ENGINE_STATE_FAILED:
            message, reason, metadata = error_from_status(engine.error)
            raise JobFailedError(f"the engine could not start: {message}", job=engine, reason=reason, metadata=metadata)
        return engine
