"""The engine of the inference service."""

from __future__ import annotations

from luthier.display import state_of
from luthier.errors import JobFailedError
from luthier.inference.v1 import engine_service_pb2 as api
from luthier.inference.v1 import engine_service_pb2_grpc as rpc
from luthier.resources.resource import Resource
from luthier.status import error_from_status


class Engine(Resource["rpc.EngineServiceAsyncStub"]):
    _make_stub = rpc.EngineServiceStub

    async def start(
        self,
        base_model: str,
        *,
        force: bool = False,
        drain_timeout_s: float | None = None,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> api.Engine:
        """Chooses the base model for all tenants and starts the engine with it; returns immediately.

        Needs the scope `inference.admin`. An engine with another base model first finishes its calls, for at most
        `drain_timeout_s` seconds (None: 30). `force`: also if deployments need the other base model.
        """
        request = api.StartEngineRequest(base_model=base_model, force=force, request_id=request_id)
        if drain_timeout_s is not None:
            request.drain_timeout.FromNanoseconds(round(drain_timeout_s * 1e9))
        return (await self._call(self._stub.StartEngine, request, timeout_s)).engine

    async def get(self, *, timeout_s: float | None = None) -> api.Engine:
        return (await self._call(self._stub.GetEngine, api.GetEngineRequest(), timeout_s)).engine

    async def wait_ready(self, *, timeout_s: float | None = None, poll_interval_s: float = 0.5) -> api.Engine:
        """Waits while the engine starts. Raises `JobFailedError` if it cannot, `TimeoutError` after `timeout_s`."""
        engine = await self._final(self.get, timeout_s=timeout_s, poll_interval_s=poll_interval_s)
        if state_of(engine) == "FAILED":
            message, reason, metadata = error_from_status(engine.error)
            raise JobFailedError(f"the engine could not start: {message}", job=engine, reason=reason, metadata=metadata)
        return engine
