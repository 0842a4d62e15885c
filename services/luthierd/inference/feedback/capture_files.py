"""Captured texts are written to Parquet files in the blob store; files and rows are deleted when they expire.

A file holds the texts of one tenant and of a few minutes, so little else is deleted together with its oldest row.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import Callable, Sequence

from luthierd.inference import metrics
from luthierd.inference.domain.errors import CaptureFileNotFoundError
from luthierd.inference.domain.feedback import Captured, CaptureFile, FileKind
from luthierd.inference.feedback.capture_parquet import part_bytes
from luthierd.inference.feedback.capture_policies import CapturePolicies
from luthierd.inference.feedback.store import SqlCaptureStore
from luthierd.names import CAPTURE_FILE, TENANT
from luthierd.paging import Page, PageRequest
from luthierd.storage.blob_errors import about
from luthierd.storage.blobs import BlobStore, Piece, read_piece

log = logging.getLogger(__name__)

MAX_PART_ROWS = 2000
MAX_PART_CHARACTERS = 16 * 1024 * 1024


class CaptureFiles:
    """Use cases of capture files, and `run`, which writes and deletes them."""

    def __init__(
        self,
        store: SqlCaptureStore,
        blobs: BlobStore,
        policies: CapturePolicies,
        *,
        part_interval_s: float,
        sweep_interval_s: float,
        response_retention_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._blobs, self._policies, self._clock = store, blobs, policies, clock
        self._part_interval_s, self._sweep_interval_s = part_interval_s, sweep_interval_s
        self._response_retention_s = response_retention_s

    async def run(self) -> None:
        """Maintains the files until cancelled. A background task of the server."""
        while True:
            try:
                await self._policies.read()
                await self.write_due()
                await self.sweep()
            except Exception:  # an unreachable store must not end the server, and is tried again
                log.exception("capture files could not be maintained")
            await asyncio.sleep(self._sweep_interval_s)

    async def write_due(self) -> None:
        """Writes a part for each tenant with enough texts, or texts that are old enough."""
        for tenant, (count, characters, oldest) in (await self._store.waiting_tenants()).items():
            is_old = self._clock() - oldest >= self._part_interval_s
            if is_old or count >= MAX_PART_ROWS or characters >= MAX_PART_CHARACTERS:
                await self.write_parts(tenant)

    async def write_parts(self, tenant: str) -> None:
        """Writes all of the tenant's waiting texts to parts."""
        while answers := await self._store.waiting(tenant, limit=MAX_PART_ROWS):
            for part in _split(answers):
                if not await self._write_part(tenant, part):
                    return  # another server writes them, or they may no longer be kept

    async def _write_part(self, tenant: str, answers: Sequence[Captured]) -> bool:
        """The file's row is written first: a blob without a row could not be deleted after an opt-out."""
        data = await asyncio.to_thread(part_bytes, answers, stamp=uuid.uuid4().hex)
        file = new_file(
            tenant,
            FileKind.PART,
            hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            row_count=len(answers),
            create_time=self._clock(),
            oldest_time=min(one.response.create_time for one in answers),
        )
        await self._store.begin_file(file)
        await asyncio.to_thread(self._blobs.put_bytes, data)
        await asyncio.to_thread(self._blobs.drop_cached, file.sha256)
        if await self._store.end_part(file, [one.response.response_id for one in answers]):
            return True
        await self.delete_doomed()
        return False

    async def sweep(self) -> None:
        """Deletes what expired or may no longer be kept: rows, then blobs, then the rows of files."""
        await self._store.expire(self._clock(), response_retention_s=self._response_retention_s)
        await self.delete_doomed()

    async def delete_doomed(self) -> None:
        for file in await self._store.doomed():
            await asyncio.to_thread(self._blobs.delete, file.sha256)
            await self._store.forget_file(file.name)
            metrics.capture_files_deleted.inc()

    async def list(self, parent: str, kind: FileKind | None, page_size: int, page_token: str) -> Page[CaptureFile]:
        """A page of the tenant's files, oldest first. `kind` None: of every kind."""
        (tenant,) = TENANT.parse(parent, field="parent")
        page = PageRequest.parse(page_size, page_token, parent, kind.value if kind else "")
        return await self._store.files(tenant, kind, page)

    async def delete(self, name: str) -> None:
        """Deletes a file with its blob. CaptureFileNotFoundError."""
        CAPTURE_FILE.parse(name)
        if not await self._store.doom_ready(name):
            raise CaptureFileNotFoundError(capture_file=name)
        await self.delete_doomed()

    async def read(self, name: str, *, offset_bytes: int, limit_bytes: int) -> Piece:
        """A piece of a file. CaptureFileNotFoundError."""
        CAPTURE_FILE.parse(name)
        file = await self._store.file(name)
        if file is None:
            raise CaptureFileNotFoundError(capture_file=name)
        with about(name):
            return await asyncio.to_thread(
                read_piece,
                self._blobs,
                file.sha256,
                offset_bytes=offset_bytes,
                limit_bytes=limit_bytes,
                size_bytes=file.size_bytes,
            )


def new_file(
    tenant: str, kind: FileKind, sha256: str, *, size_bytes: int, row_count: int, create_time: float, oldest_time: float
) -> CaptureFile:
    """A file whose name is made of its time, so that names sort by time, and of its content."""
    return CaptureFile(
        name=CAPTURE_FILE.format(tenant, f"c{int(create_time * 1000):014d}-{sha256[:20]}"),
        tenant=tenant,
        kind=kind,
        sha256=sha256,
        size_bytes=size_bytes,
        row_count=row_count,
        create_time=create_time,
        oldest_time=oldest_time,
    )


def _split(answers: Sequence[Captured]) -> list[list[Captured]]:
    """Consecutive parts, each at most `MAX_PART_CHARACTERS` long unless it is a single answer."""
    parts: list[list[Captured]] = [[]]
    size = 0
    for answer in answers:
        added = answer.text.character_count if answer.text else 0
        if parts[-1] and size + added > MAX_PART_CHARACTERS:
            parts.append([])
            size = 0
        parts[-1].append(answer)
        size += added
    return parts
