"""Deployments (the inference service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cached_property

from luthier.inference.v1 import deployment_pb2 as pb
from luthier.inference.v1 import deployment_service_pb2 as api
from luthier.inference.v1 import deployment_service_pb2_grpc as rpc
from luthier.resources.reading import pages
from luthier.transport import Transport, new_request_id


class Deployments:
    """`etag`: the deployment's as the caller knows it; another one by now is an `AbortedError`. Empty: not checked."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.DeploymentServiceAsyncStub:
        return rpc.DeploymentServiceStub(self._transport.channel)

    async def deploy(
        self,
        name: str,
        *,
        adapter_revision: str,
        stage_only: bool = False,
        etag: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.Deployment:
        """Verifies, loads and probes an adapter revision and makes it live, or with `stage_only` the candidate."""
        request = api.DeployAdapterRequest(
            name=name,
            adapter_revision=adapter_revision,
            stage_only=stage_only,
            etag=etag,
            request_id=request_id or new_request_id(),
        )
        return (await self._transport.unary(self._stub.DeployAdapter, request, timeout_s=timeout_s)).deployment

    async def promote(
        self, name: str, *, etag: str = "", request_id: str = "", timeout_s: float | None = None
    ) -> pb.Deployment:
        """Makes the candidate live."""
        request = api.PromoteDeploymentRequest(name=name, etag=etag, request_id=request_id or new_request_id())
        return (await self._transport.unary(self._stub.PromoteDeployment, request, timeout_s=timeout_s)).deployment

    async def rollback(
        self, name: str, *, etag: str = "", request_id: str = "", timeout_s: float | None = None
    ) -> pb.Deployment:
        """Makes the previous loaded adapter live again."""
        request = api.RollbackDeploymentRequest(name=name, etag=etag, request_id=request_id or new_request_id())
        return (await self._transport.unary(self._stub.RollbackDeployment, request, timeout_s=timeout_s)).deployment

    async def delete(self, name: str, *, etag: str = "", request_id: str = "", timeout_s: float | None = None) -> None:
        """Removes a deployment; requests in flight finish."""
        request = api.DeleteDeploymentRequest(name=name, etag=etag, request_id=request_id or new_request_id())
        await self._transport.unary(self._stub.DeleteDeployment, request, timeout_s=timeout_s)

    async def set_traffic(
        self,
        name: str,
        weights: Mapping[str, int],
        *,
        mirror_revision: str = "",
        etag: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.Deployment:
        """Splits requests over adapter revisions that the deployment holds; no weights: all to the live one.

        `mirror_revision`: answers copies, after the caller; empty: none.
        """
        request = api.SetTrafficRequest(
            name=name,
            traffic=[pb.TrafficShare(adapter_revision=one, weight=weight) for one, weight in weights.items()],
            mirror_revision=mirror_revision,
            etag=etag,
            request_id=request_id or new_request_id(),
        )
        return (await self._transport.unary(self._stub.SetTraffic, request, timeout_s=timeout_s)).deployment

    async def pin(
        self,
        name: str,
        *,
        pinned: bool = True,
        etag: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.Deployment:
        """Keeps all loaded adapters of a deployment in memory, or no longer."""
        request = api.PinDeploymentRequest(
            name=name, pinned=pinned, etag=etag, request_id=request_id or new_request_id()
        )
        return (await self._transport.unary(self._stub.PinDeployment, request, timeout_s=timeout_s)).deployment

    async def prefetch(self, name: str, *, timeout_s: float | None = None) -> pb.Deployment:
        """Loads what requests go to, so that none of them waits for it."""
        request = api.PrefetchDeploymentRequest(name=name)
        return (await self._transport.unary(self._stub.PrefetchDeployment, request, timeout_s=timeout_s)).deployment

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.Deployment:
        request = api.GetDeploymentRequest(name=name)
        return (await self._transport.unary(self._stub.GetDeployment, request, timeout_s=timeout_s)).deployment

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.Deployment]:
        """The deployments of `tenants/{t}`, by name."""

        async def fetch(token: str) -> tuple[Sequence[pb.Deployment], str]:
            request = api.ListDeploymentsRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListDeployments, request)
            return page.deployments, page.next_page_token

        return pages(fetch)
