"""Base models (the trainer service)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from functools import cached_property

from luthier.resources.reading import finished, pages, wait_for
from luthier.trainer.v1 import base_model_pb2 as pb
from luthier.trainer.v1 import base_model_service_pb2 as api
from luthier.trainer.v1 import base_model_service_pb2_grpc as rpc
from luthier.transport import Transport, new_request_id

FINAL_STATES = frozenset({pb.BASE_MODEL_STATE_READY, pb.BASE_MODEL_STATE_FAILED})


class BaseModels:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.BaseModelServiceAsyncStub:
        return rpc.BaseModelServiceStub(self._transport.channel)

    async def import_model(
        self,
        base_model_id: str,
        *,
        path: str | os.PathLike[str] | None = None,
        package: str | None = None,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.BaseModel:
        """Starts an import from one of `path` (a folder on the trainer's machine) and `package` (an installed Python
        package that carries a GGUF model); returns the model, IMPORTING or READY.
        """
        if (path is None) == (package is None):
            raise ValueError("name exactly one of path and package")
        request = api.ImportBaseModelRequest(base_model_id=base_model_id, request_id=request_id or new_request_id())
        if path is not None:
            request.path = os.fspath(path)
        elif package is not None:
            request.package = package
        answer = await self._transport.unary(self._stub.ImportBaseModel, request, timeout_s=timeout_s)
        return answer.base_model

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.BaseModel:
        request = api.GetBaseModelRequest(name=name)
        return (await self._transport.unary(self._stub.GetBaseModel, request, timeout_s=timeout_s)).base_model

    def list(self, *, page_size: int = 0) -> AsyncIterator[pb.BaseModel]:
        """The base models by name."""

        async def fetch(token: str) -> tuple[Sequence[pb.BaseModel], str]:
            request = api.ListBaseModelsRequest(page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListBaseModels, request)
            return page.base_models, page.next_page_token

        return pages(fetch)

    async def wait(self, name: str, *, timeout_s: float | None = None, poll_interval_s: float = 0.5) -> pb.BaseModel:
        """Waits until the model is READY. Raises `JobFailedError` or `TimeoutError`."""
        model = await wait_for(
            lambda: self.get(name),
            lambda found: found.state in FINAL_STATES,
            poll_interval_s=poll_interval_s,
            timeout_s=timeout_s,
            retry=self._transport.retry,
        )
        return finished(model, failed=model.state == pb.BASE_MODEL_STATE_FAILED, cancelled=False)
