"""Adapters and their immutable revisions, `r1`, `r2`, ... in the order in which their training ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from luthierd.names import ADAPTER, ADAPTER_REVISION, TENANT
from luthierd.rpc.paging import Page, PageRequest
from luthierd.trainer.domain import Adapter, AdapterNotFoundError, AdapterRevision, AdapterRevisionNotFoundError


class AdapterStore(Protocol):
    """Where adapters are kept."""

    async def adapters(self, parent: str, page: PageRequest) -> Sequence[Adapter]:
        """The next adapters of a tenant by name."""

    async def has_adapter(self, name: str) -> bool:
        """Whether there is an adapter of that name."""

    async def revisions(self, adapter: str, page: PageRequest) -> Sequence[AdapterRevision]:
        """The next finished revisions, newest first."""

    async def revision(self, adapter: str, number: int) -> AdapterRevision | None:
        """A finished revision."""


class Adapters:
    """The use cases of `AdapterService`."""

    def __init__(self, store: AdapterStore) -> None:
        self._store = store

    async def list(self, parent: str, page_size: int, page_token: str) -> Page[Adapter]:
        """A page of a tenant's adapters by name."""
        TENANT.parse(parent, field="parent")
        page = PageRequest.parse(page_size, page_token, parent)
        found = await self._store.adapters(parent, page)
        return page.page(found, [adapter.name for adapter in found])

    async def get_revision(self, name: str) -> AdapterRevision:
        """AdapterRevisionNotFoundError."""
        tenant, adapter, revision = ADAPTER_REVISION.parse(name)
        number = number_of(revision)
        found = await self._store.revision(ADAPTER.format(tenant, adapter), number) if number else None
        if found is None:
            raise AdapterRevisionNotFoundError(name)
        return found

    async def list_revisions(self, parent: str, page_size: int, page_token: str) -> Page[AdapterRevision]:
        """A page of an adapter's revisions, newest first. AdapterNotFoundError."""
        ADAPTER.parse(parent, field="parent")
        if not await self._store.has_adapter(parent):
            raise AdapterNotFoundError(parent)
        page = PageRequest.parse(page_size, page_token, parent)
        found = await self._store.revisions(parent, page)
        return page.page(found, [revision.name.rpartition("/r")[2] for revision in found])


def number_of(revision: str) -> int:
    """The number in `r12`; 0 if it is no such id."""
    digits = revision.removeprefix("r")
    return int(digits) if digits.isdecimal() and len(digits) < 10 else 0
