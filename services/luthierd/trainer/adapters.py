"""Adapters and their immutable revisions."""

from __future__ import annotations

import asyncio

from luthierd.names import ADAPTER, ADAPTER_REVISION, TENANT
from luthierd.paging import Page, PageRequest
from luthierd.storage.blobs import BlobStore, Piece, read_piece
from luthierd.storage.manifests import read_manifest
from luthierd.trainer.domain.adapter import (
    Adapter,
    AdapterBaseMismatchError,
    AdapterFileNotFoundError,
    AdapterNotFoundError,
    AdapterRevision,
    AdapterRevisionNotFoundError,
)
from luthierd.trainer.domain.base_model import BaseModelInfo
from luthierd.trainer.store import SqlStore


class Adapters:
    """Reads what training and imports have made."""

    def __init__(self, store: SqlStore, blobs: BlobStore) -> None:
        self._store, self._blobs = store, blobs

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

    async def read(self, name: str, path: str, *, offset_bytes: int, limit_bytes: int) -> Piece:
        """Some bytes of a revision's file, or of its manifest if `path` is empty; none past the end.

        AdapterRevisionNotFoundError, AdapterFileNotFoundError; BlobNotFoundError, BlobCorruptError.
        """
        revision = await self.get_revision(name)
        return await asyncio.to_thread(self._read, revision, path, offset_bytes=offset_bytes, limit_bytes=limit_bytes)

    def _read(self, revision: AdapterRevision, path: str, *, offset_bytes: int, limit_bytes: int) -> Piece:
        sha256 = revision.sha256
        if path:
            files = read_manifest(self._blobs, sha256).files
            if path not in files:
                raise AdapterFileNotFoundError(revision.name, path, files)
            sha256 = files[path].sha256
        return read_piece(self._blobs, sha256, offset_bytes=offset_bytes, limit_bytes=limit_bytes)

    async def list_revisions(self, parent: str, page_size: int, page_token: str) -> Page[AdapterRevision]:
        """An adapter's revisions, newest first. AdapterNotFoundError."""
        ADAPTER.parse(parent, field="parent")
        page = PageRequest.parse(page_size, page_token, parent)
        if await self._store.adapter(parent) is None:
            raise AdapterNotFoundError(parent)
        return await self._store.adapter_revisions(parent, page)


async def refuse_other_base(store: SqlStore, adapter: str, base_model: str, info: BaseModelInfo) -> None:
    """AdapterBaseMismatchError if the adapter has revisions of another base model."""
    known = await store.adapter(adapter)
    latest = await store.adapter_revision(known.latest_revision) if known and known.latest_revision else None
    if latest and latest.base_model_sha256 != info.sha256:
        raise AdapterBaseMismatchError(adapter, belongs_to=latest.base_model, wanted=base_model)
