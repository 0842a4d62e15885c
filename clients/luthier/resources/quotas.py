"""Tenants' quotas (the inference service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import cached_property

from google.protobuf.field_mask_pb2 import FieldMask

from luthier.inference.v1 import quota_pb2 as pb
from luthier.inference.v1 import tenant_service_pb2 as api
from luthier.inference.v1 import tenant_service_pb2_grpc as rpc
from luthier.resources.reading import pages
from luthier.transport import Transport, new_request_id


class Quotas:
    """`name`: `tenants/{t}/quota`; every tenant has one."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.TenantServiceAsyncStub:
        return rpc.TenantServiceStub(self._transport.channel)

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.Quota:
        """The limits that were set, those that hold, and what the tenant uses now."""
        request = api.GetQuotaRequest(name=name)
        return (await self._transport.unary(self._stub.GetQuota, request, timeout_s=timeout_s)).quota

    def list(self, *, page_size: int = 0) -> AsyncIterator[pb.Quota]:
        """Of tenants that have limits of their own or deployments, by name. Needs the scope `inference.admin`."""

        async def fetch(token: str) -> tuple[Sequence[pb.Quota], str]:
            request = api.ListQuotasRequest(page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListQuotas, request)
            return page.quotas, page.next_page_token

        return pages(fetch)

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
        """Sets the limits that are set in `limits` (0: no limit) and takes those of `reset` back to the default.

        Needs the scope `inference.admin`. `etag`: the quota's as the caller knows it; empty: not checked.
        """
        limits = limits or pb.QuotaLimits()
        paths = [*(field.name for field, _ in limits.ListFields()), *reset]
        request = api.UpdateQuotaRequest(
            name=name,
            limits=limits,
            update_mask=FieldMask(paths=paths),
            etag=etag,
            request_id=request_id or new_request_id(),
        )
        return (await self._transport.unary(self._stub.UpdateQuota, request, timeout_s=timeout_s)).quota
