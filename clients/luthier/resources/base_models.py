"""Base models (the trainer service)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from luthier.resources.resource import DeletableResource, finished
from luthier.trainer.v1 import base_model_pb2 as pb
from luthier.trainer.v1 import base_model_service_pb2 as api
from luthier.trainer.v1 import base_model_service_pb2_grpc as rpc


class BaseModels(DeletableResource["rpc.BaseModelServiceAsyncStub"]):
    _make_stub = rpc.BaseModelServiceStub
    _delete_request = api.DeleteBaseModelRequest

    async def import_model(
        self,
        base_model_id: str,
        *,
        path: str | os.PathLike[str] | None = None,
        package: str | None = None,
        hub: str | None = None,
        revision: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.BaseModel:
        """Starts an import from `path` (a folder on the trainer's machine), `package` (an installed Python package that
        contains a GGUF model) or `hub` (`organisation/model` at `revision`: a branch, a tag or a commit; default
        `main`); returns the model, IMPORTING or READY.
        """
        if sum(source is not None for source in (path, package, hub)) != 1:
            raise ValueError("name exactly one of path, package and hub")
        request = api.ImportBaseModelRequest(base_model_id=base_model_id, request_id=request_id)
        if path is not None:
            request.path = os.fspath(path)
        if package is not None:
            request.package = package
        if hub is not None:
            request.hub.repository, request.hub.revision = hub, revision
        return (await self._call(self._stub.ImportBaseModel, request, timeout_s)).base_model

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.BaseModel:
        return (await self._call(self._stub.GetBaseModel, api.GetBaseModelRequest(name=name), timeout_s)).base_model

    def list(self, *, page_size: int = 0) -> AsyncIterator[pb.BaseModel]:
        """The base models by name."""
        request = api.ListBaseModelsRequest(page_size=page_size)
        return self._pages(self._stub.ListBaseModels, request, lambda page: page.base_models)

    async def wait(self, name: str, *, timeout_s: float | None = None, poll_interval_s: float = 0.5) -> pb.BaseModel:
        """Waits until the model is READY. Raises `JobFailedError` or `TimeoutError`."""
        return finished(await self._final(lambda: self.get(name), timeout_s=timeout_s, poll_interval_s=poll_interval_s))
