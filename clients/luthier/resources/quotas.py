"""Tenants' quotas (the inference service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from google.protobuf.field_mask_pb2 import FieldMask

from luthier.inference.v1 import quota_pb2 as pb
from luthier.inference.v1 import tenant_service_pb2 as api
from luthier.inference.v1 import tenant_service_pb2_grpc as rpc
from luthier.resources.resource import Resource


class Quotas(Resource["rpc.TenantServiceAsyncStub"]):
    """`name`: `tenants/{t}/quota`; every tenant has one."""

    _make_stub = rpc.TenantServiceStub

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.Quota:
        """The limits that were set, those in effect, and the tenant's current usage."""
        return (await self._call(self._stub.GetQuota, api.GetQuotaRequest(name=name), timeout_s)).quota

    def list(self, *, page_size: int = 0) -> AsyncIterator[pb.Quota]:
        """Quotas of the tenants that have deployments or limits set, by name. Needs the scope `inference.admin`."""
        request = api.ListQuotasRequest(page_size=page_size)
        return self._pages(self._stub.ListQuotas, request, lambda page: page.quotas)

    async def update(
        self,
        name: str,
        limits: pb.QuotaLimits | None = None,
        *,
        reset: Sequence[str] = (),
        etag: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.Quota:
        """Sets the limits that are set in `limits` (0: no limit) and resets those named in `reset` to the default.

        Needs the scope `inference.admin`. `etag`: the quota's, as last read; empty: not checked.
        """
        limits = limits or pb.QuotaLimits()
        paths = [*(field.name for field, _ in limits.ListFields()), *reset]
        request = api.UpdateQuotaRequest(
            name=name, limits=limits, update_mask=FieldMask(paths=paths), etag=etag, request_id=request_id
        )
        return (await self._call(self._stub.UpdateQuota, request, timeout_s)).quota
