"""Imports of adapters: what is checked before one is accepted, and its life as a caller sees it."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Callable, Sequence

from luthierd.codec import to_json
from luthierd.jobs.queue import Job, JobNotFoundError, JobQueue
from luthierd.names import ADAPTER, ADAPTER_IMPORT, BASE_MODEL, TENANT, parse_id
from luthierd.paging import Page, PageRequest
from luthierd.storage.blobs import Blob, BlobStore
from luthierd.storage.manifests import Manifest
from luthierd.trainer.adapters import refuse_other_base
from luthierd.trainer.base_models import BaseModels
from luthierd.trainer.domain.adapter_import import AdapterImportNotFoundError, AdapterImportTask, check_file_names
from luthierd.trainer.store import IMPORT_ADAPTER, SqlStore
from luthierd.trainer.uploads import Uploads


class AdapterImports:
    """Accepts, shows and cancels imports."""

    def __init__(
        self,
        store: SqlStore,
        queue: JobQueue,
        blobs: BlobStore,
        *,
        base_models: BaseModels,
        uploads: Uploads,
        wake: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._queue, self._blobs, self._base_models = store, queue, blobs, base_models
        self._uploads, self._wake, self._now = uploads, wake, now

    async def create(
        self,
        parent: str,
        import_id: str,
        *,
        adapter: str,
        base_model: str,
        files: Sequence[tuple[str, str]],
        subject: str,
    ) -> Job:
        """Accepts an import for `subject`. `files`: path and sha256 of each; they are moved to the blob store.

        AdapterFileForbiddenError, AdapterFileMissingError, BaseModelNotFoundError, BaseModelNotReadyError,
        AdapterBaseMismatchError, JobExistsError.
        """
        (tenant,) = TENANT.parse(parent, field="parent")
        ADAPTER.parse(adapter, field="adapter_import.adapter")
        BASE_MODEL.parse(base_model, field="adapter_import.base_model")
        import_id = parse_id(import_id, field="adapter_import_id") if import_id else f"i{uuid.uuid4().hex[:12]}"
        info = (await self._base_models.get(base_model)).ready_info()
        await refuse_other_base(self._store, adapter, base_model, info)
        check_file_names([path for path, _ in files])
        paths = {path: self._uploads.path(tenant, sha256) for path, sha256 in files}
        blobs = {path: await asyncio.to_thread(self._blobs.put_file, file) for path, file in paths.items()}
        task = AdapterImportTask(
            adapter=adapter,
            base_model=base_model,
            base_model_info=info,
            files=dict(files),
            source_sha256=source_sha256(blobs),
            subject=subject,
        )
        name = ADAPTER_IMPORT.format(tenant, import_id)
        job = await self._store.submit(name, IMPORT_ADAPTER, to_json(task), adapter=adapter, now=self._now())
        for file in paths.values():
            file.unlink(missing_ok=True)
        self._wake()
        return job

    async def get(self, name: str) -> Job:
        """AdapterImportNotFoundError."""
        ADAPTER_IMPORT.parse(name)
        try:
            return await self._queue.get(name)
        except JobNotFoundError:
            raise AdapterImportNotFoundError(name) from None

    async def list(self, parent: str, page_size: int, page_token: str) -> Page[Job]:
        """A tenant's imports, newest first."""
        TENANT.parse(parent, field="parent")
        page = PageRequest.parse(page_size, page_token, parent, "adapterImports")
        return await self._queue.list(f"{parent}/adapterImports/", page)

    async def cancel(self, name: str) -> Job:
        """Asks the import to end; a finished one is left as it is. AdapterImportNotFoundError."""
        await self.get(name)
        return await self._queue.cancel(name)


def source_sha256(files: dict[str, Blob]) -> str:
    """The digest of the manifest that the files would have as an artifact."""
    return hashlib.sha256(Manifest(files).to_json()).hexdigest()
