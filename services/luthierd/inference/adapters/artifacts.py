"""Files of base models and adapters, fetched by digest."""

from __future__ import annotations

import asyncio
import pathlib

from luthierd.inference.adapters.checks import BaseFacts, check_files, check_manifest, read_base_facts
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel
from luthierd.storage.blob_errors import BlobNotFoundError, about
from luthierd.storage.blobs import BlobStore
from luthierd.storage.manifests import checkout, read_manifest


class Artifacts:
    """Checks artifacts out below `folder`, one folder per digest."""

    def __init__(self, blobs: BlobStore, folder: pathlib.Path, *, max_adapter_bytes: int) -> None:
        self._blobs, self._folder = blobs, folder
        self._max_adapter_bytes = max_adapter_bytes
        self._base_facts: dict[str, BaseFacts] = {}  # one per base model served: mostly a single one

    async def base_model_folder(self, base_model: BaseModel) -> pathlib.Path:
        """The model's files, verified. BlobNotFoundError, BlobCorruptError, ManifestInvalidError."""
        folder = self._folder / "base_models" / base_model.sha256
        with about(base_model.name):
            await asyncio.to_thread(checkout, self._blobs, base_model.sha256, folder)
        return folder

    async def fetch(self, revision: AdapterRevision) -> pathlib.Path:
        """A folder with the revision's files, verified.

        AdapterFileForbiddenError, AdapterTooLargeError; BlobNotFoundError, BlobCorruptError, ManifestInvalidError.
        """
        with about(revision.name):
            return await asyncio.to_thread(self._fetch, revision)

    def _fetch(self, revision: AdapterRevision) -> pathlib.Path:
        manifest = read_manifest(self._blobs, revision.sha256)
        size_bytes = sum(self._blobs.size_bytes(blob.sha256) for blob in manifest.files.values())  # not as it claims
        check_manifest(revision, manifest, size_bytes=size_bytes, max_bytes=self._max_adapter_bytes)
        folder = self._folder / "adapters" / revision.sha256
        checkout(self._blobs, revision.sha256, folder)
        return folder

    async def verify(self, revision: AdapterRevision, folder: pathlib.Path, *, max_rank: int) -> None:
        """Checks the revision's files against its base model's. AdapterInvalidError or a subclass."""
        facts = self._base_facts.get(revision.base_model.sha256)
        if facts is None:
            base_folder = await self.base_model_folder(revision.base_model)
            facts = self._base_facts[revision.base_model.sha256] = await asyncio.to_thread(read_base_facts, base_folder)
        await asyncio.to_thread(check_files, revision, folder, facts, max_rank=max_rank)

    async def check_present(self, revision: AdapterRevision) -> None:
        """BlobNotFoundError if any of the revision's files is gone. Reads only the manifest."""

        def check() -> None:
            for blob in read_manifest(self._blobs, revision.sha256).files.values():
                if not self._blobs.has(blob.sha256):
                    raise BlobNotFoundError(blob.sha256)

        await asyncio.to_thread(check)
