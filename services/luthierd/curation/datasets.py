"""Datasets: importing rows as the source, all or nothing, and reading what there is."""

from __future__ import annotations

import asyncio
import hashlib
import pathlib
import tempfile
from collections.abc import AsyncIterator
from typing import BinaryIO, cast

from luthierd.curation.domain import Dataset, row_to_json
from luthierd.curation.sources.parquet import is_parquet, parquet_lines
from luthierd.curation.sources.rows import ImportLimits, parse_rows, read_lines
from luthierd.curation.store import SqlDatasetStore
from luthierd.errors import DataLossError, InvalidArgumentError, NotFoundError
from luthierd.files import disk_full_named
from luthierd.names import DATASET, TENANT, parse_id
from luthierd.paging import Page, PageRequest
from luthierd.storage.blobs import Blob, BlobStore

MEMORY_BYTES = 4 * 1024 * 1024
"""Imports up to this size do not touch the disk before they are known to be good."""


class DatasetNotFoundError(NotFoundError):
    """No such dataset."""

    reason = "DATASET_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no dataset {name}; `luthier dataset list` shows those there are", metadata={"dataset": name}
        )


class ImportDigestMismatchError(DataLossError):
    """The received bytes do not match the digest."""

    reason = "IMPORT_DIGEST_MISMATCH"

    def __init__(self, *, expected: str, actual: str) -> None:
        super().__init__(
            f"the bytes that arrived have the sha256 {actual}, not {expected}; send them again",
            metadata={"expected_sha256": expected, "actual_sha256": actual},
        )


class ImportTooLargeError(InvalidArgumentError):
    """The import exceeds the size limit."""

    reason = "IMPORT_TOO_LARGE"
    field_name = "data"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"the import is larger than {limit_bytes} bytes; import it as several datasets",
            metadata={"limit_bytes": str(limit_bytes)},
        )


class Datasets:
    """The use cases. Rows are spooled below `spool_folder` while they arrive."""

    def __init__(
        self,
        store: SqlDatasetStore,
        blobs: BlobStore,
        *,
        limits: ImportLimits,
        max_import_bytes: int,
        spool_folder: pathlib.Path,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._limits = limits
        self._max_import_bytes = max_import_bytes
        self._spool_folder = spool_folder

    async def import_rows(
        self, parent: str, dataset_id: str, chunks: AsyncIterator[bytes], *, expected_sha256: str
    ) -> Dataset:
        """Makes the rows, JSONL or one Parquet file, the dataset's source. An error changes nothing: RowError,
        ParquetUnreadableError, FeedbackUnusableError, ImportEmptyError, ImportTooLargeError, ImportDigestMismatchError,
        DiskFullError.
        """
        (tenant,) = TENANT.parse(parent, field="header.parent")
        name = DATASET.format(tenant, parse_id(dataset_id, field="header.dataset_id"))
        with disk_full_named(self._spool_folder):
            self._spool_folder.mkdir(parents=True, exist_ok=True)
            with tempfile.SpooledTemporaryFile(MEMORY_BYTES, dir=str(self._spool_folder)) as spooled:
                upload = cast(BinaryIO, spooled)
                await self._receive(chunks, upload, expected_sha256)
                blob, row_count = await asyncio.to_thread(self._store_rows, upload)
        return await self._store.put_source(name, blob.sha256, row_count)

    async def get(self, name: str) -> Dataset:
        """DatasetNotFoundError."""
        DATASET.parse(name)
        found = await self._store.get(name)
        if found is None:
            raise DatasetNotFoundError(name)
        return found

    async def list(self, parent: str, page_size: int, page_token: str) -> Page[Dataset]:
        """A page of the tenant's datasets, by name."""
        (tenant,) = TENANT.parse(parent, field="parent")
        return await self._store.list(tenant, PageRequest.parse(page_size, page_token, "datasets", parent))

    async def _receive(self, chunks: AsyncIterator[bytes], upload: BinaryIO, expected_sha256: str) -> None:
        digest, size = hashlib.sha256(), 0
        async for chunk in chunks:
            size += len(chunk)
            if size > self._max_import_bytes:
                raise ImportTooLargeError(self._max_import_bytes)
            digest.update(chunk)
            await asyncio.to_thread(upload.write, chunk)
        if expected_sha256 and digest.hexdigest() != expected_sha256.lower():
            raise ImportDigestMismatchError(expected=expected_sha256, actual=digest.hexdigest())

    def _store_rows(self, upload: BinaryIO) -> tuple[Blob, int]:
        """Parses what arrived and stores it in canonical form; returns the number of rows, too."""
        upload.seek(0)
        count = 0
        with tempfile.NamedTemporaryFile(dir=self._spool_folder, suffix=".jsonl") as canonical:
            lines = (parquet_lines if is_parquet(upload) else read_lines)(upload, self._limits)
            for row in parse_rows(lines, self._limits):
                canonical.write(row_to_json(row) + b"\n")
                count += 1
            canonical.flush()
            return self._blobs.put_file(pathlib.Path(canonical.name)), count
