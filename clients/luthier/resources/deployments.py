"""Deployments (the inference service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from luthier.inference.v1 import deployment_pb2 as pb
from luthier.inference.v1 import deployment_service_pb2 as api
from luthier.inference.v1 import deployment_service_pb2_grpc as rpc
from luthier.resources.resource import Resource


class Deployments(Resource["rpc.DeploymentServiceAsyncStub"]):
    """`etag`: the deployment's, as last read; if it has changed since, an `AbortedError`. Empty: not checked."""

    _make_stub = rpc.DeploymentServiceStub

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
        """Verifies, loads and checks an adapter revision and makes it live, or with `stage_only` the candidate."""
        request = api.DeployAdapterRequest(
            name=name, adapter_revision=adapter_revision, stage_only=stage_only, etag=etag, request_id=request_id
        )
        return (await self._call(self._stub.DeployAdapter, request, timeout_s)).deployment

    async def promote(
        self, name: str, *, etag: str = "", request_id: str = "", timeout_s: float | None = None
    ) -> pb.Deployment:
        """Makes the candidate live."""
        request = api.PromoteDeploymentRequest(name=name, etag=etag, request_id=request_id)
        return (await self._call(self._stub.PromoteDeployment, request, timeout_s)).deployment

    async def rollback(
        self, name: str, *, etag: str = "", request_id: str = "", timeout_s: float | None = None
    ) -> pb.Deployment:
        """Makes the previous adapter revision live again."""
        request = api.RollbackDeploymentRequest(name=name, etag=etag, request_id=request_id)
        return (await self._call(self._stub.RollbackDeployment, request, timeout_s)).deployment

    async def delete(self, name: str, *, etag: str = "", request_id: str = "", timeout_s: float | None = None) -> None:
        """Removes a deployment; requests in flight finish."""
        request = api.DeleteDeploymentRequest(name=name, etag=etag, request_id=request_id)
        await self._call(self._stub.DeleteDeployment, request, timeout_s)

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

        mirror_revision: also answers a copy of each request, after the caller has its answer; empty: none.
        """
        request = api.SetTrafficRequest(
            name=name,
            traffic=[pb.TrafficShare(adapter_revision=one, weight=weight) for one, weight in weights.items()],
            mirror_revision=mirror_revision,
            etag=etag,
            request_id=request_id,
        )
        return (await self._call(self._stub.SetTraffic, request, timeout_s)).deployment

    async def pin(
        self,
        name: str,
        *,
        pinned: bool = True,
        etag: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.Deployment:
        """Keeps all adapters of a deployment in memory, or, with `pinned=False`, no longer."""
        request = api.PinDeploymentRequest(name=name, pinned=pinned, etag=etag, request_id=request_id)
        return (await self._call(self._stub.PinDeployment, request, timeout_s)).deployment

    async def prefetch(self, name: str, *, timeout_s: float | None = None) -> pb.Deployment:
        """Loads the adapters that requests are routed to, so that no request waits for one."""
        request = api.PrefetchDeploymentRequest(name=name)
        return (await self._call(self._stub.PrefetchDeployment, request, timeout_s)).deployment

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.Deployment:
        return (await self._call(self._stub.GetDeployment, api.GetDeploymentRequest(name=name), timeout_s)).deployment

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.Deployment]:
        """The deployments of `tenants/{t}`, by name."""
        request = api.ListDeploymentsRequest(parent=parent, page_size=page_size)
        return self._pages(self._stub.ListDeployments, request, lambda page: page.deployments)
