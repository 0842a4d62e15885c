"""A service whose methods do what a test says, over the contract of `DatasetService`: it has all shapes that we use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from luthier.curation.v1 import dataset_service_pb2 as pb
from luthier.curation.v1 import dataset_service_pb2_grpc as rpc
from luthierd.rpc.server import Service

from support.serving import VERIFIER, bearer

FULL_NAME = "luthier.curation.v1.DatasetService"

UNARY, SERVER_STREAM, CLIENT_STREAM = SHAPES = ("GetDataset", "WatchDatasetRevision", "ImportDataset")
"""A method of each shape."""
SCOPES = {UNARY: "curation.read", SERVER_STREAM: "curation.read", CLIENT_STREAM: "curation.write"}
"""What the contract requires for each."""

Act = Callable[[grpc.aio.ServicerContext[Any, Any]], Awaitable[None]]


async def nothing(_context: object) -> None:
    """Succeeds."""


def scripted(act: Act = nothing, *, behaviors: dict[str, Any] | None = None, **options: Any) -> Service:
    """A service of which each of `SHAPES` runs `act`; `behaviors` replaces whole methods, `options` go to `Service`."""
    servicer = rpc.DatasetServiceServicer()
    for method, behavior in {**_of_every_shape(act), **(behaviors or {})}.items():
        setattr(servicer, method, behavior)
    return Service(
        name="curation",
        servicers=[servicer],
        verifier=VERIFIER,
        **options,
    )


def _of_every_shape(act: Act) -> dict[str, Any]:
    async def answer(_request: object, context: Any) -> pb.GetDatasetResponse:
        await act(context)
        return pb.GetDatasetResponse()

    async def watch(_request: object, context: Any) -> AsyncIterator[pb.WatchDatasetRevisionResponse]:
        yield pb.WatchDatasetRevisionResponse()
        await act(context)

    async def take(requests: AsyncIterator[pb.ImportDatasetRequest], context: Any) -> pb.ImportDatasetResponse:
        async for _ in requests:
            pass
        await act(context)
        return pb.ImportDatasetResponse()

    return {UNARY: answer, SERVER_STREAM: watch, CLIENT_STREAM: take}


async def call(
    channel: grpc.aio.Channel,
    shape: str,
    *,
    tenant: str = "acme",
    metadata: tuple[tuple[str, str], ...] | None = None,
    timeout: float = 10.0,
) -> Any:
    """Makes a call about a resource of `tenant` and returns it when it has ended well. AioRpcError otherwise."""
    stub = rpc.DatasetServiceStub(channel)
    metadata = bearer() if metadata is None else metadata
    name = f"tenants/{tenant}/datasets/d"
    if shape == UNARY:
        made: Any = stub.GetDataset(pb.GetDatasetRequest(name=name), metadata=metadata, timeout=timeout)
        await made
    elif shape == SERVER_STREAM:
        request = pb.WatchDatasetRevisionRequest(name=f"{name}/revisions/r1")
        made = stub.WatchDatasetRevision(request, metadata=metadata, timeout=timeout)
        async for _ in made:
            pass
    else:
        header = pb.ImportDatasetRequest(header=pb.ImportDatasetHeader(parent=f"tenants/{tenant}", dataset_id="d"))
        made = stub.ImportDataset(
            iter([header, pb.ImportDatasetRequest(data=b"{}")]), metadata=metadata, timeout=timeout
        )
        await made
    return made
