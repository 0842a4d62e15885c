"""Adapters and their immutable revisions."""

from __future__ import annotations

from luthierd.names import ADAPTER, ADAPTER_REVISION, TENANT
from luthierd.paging import Page, PageRequest
from luthierd.trainer.domain.adapter import Adapter, AdapterNotFoundError, AdapterRevision, AdapterRevisionNotFoundError
from luthierd.trainer.store import SqlStore


class Adapters:
    """Reads what training has made."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    async def list(self, parent: str, page_size: int, page_token: str) -> Page[Adapter]:
        """A tenant's adapters by name."""
        TENANT.parse(parent, field="parent")
        return await self._store.adapters(parent, PageRequest.parse(page_size, page_token, parent))

    async def get_revision(self, name: str) -> AdapterRevision:
        """AdapterRevisionNotFoundError."""
        ADAPTER_REVISION.parse(name)
        revision = await self._store.adapter_revision(name)
        if revision is None:
            raise AdapterRevisionNotFoundError(name)
        return revision

    async def list_revisions(self, parent: str, page_size: int, page_token: str) -> Page[AdapterRevision]:
        """An adapter's revisions, newest first. AdapterNotFoundError."""
        ADAPTER.parse(parent, field="parent")
        page = PageRequest.parse(page_size, page_token, parent)
        if await self._store.adapter(parent) is None:
            raise AdapterNotFoundError(parent)
        return await self._store.adapter_revisions(parent, page)
