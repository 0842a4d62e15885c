"""Feedback: what users say about answers, and its export for the next dataset."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
import pathlib
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

from luthierd.errors import InvalidArgumentError
from luthierd.inference.domain.errors import ExportOvertakenError, ExportTooLargeError, ResponseNotFoundError
from luthierd.inference.domain.feedback import CaptureFile, ExportFilter, Feedback, FileKind, Opinion, Text
from luthierd.inference.feedback.capture_files import new_file
from luthierd.inference.feedback.capture_parquet import read_texts, write_export
from luthierd.inference.feedback.redaction import redact
from luthierd.inference.feedback.response_log import ResponseLog
from luthierd.inference.feedback.store import SqlCaptureStore
from luthierd.names import DEPLOYMENT, TENANT
from luthierd.storage.blob_errors import BlobNotFoundError, about
from luthierd.storage.blobs import BlobStore

MAX_EXPORT_ROWS = 100_000
EXPORT_BATCH = 1000
MAX_RESPONSE_ID = 64


class Feedbacks:
    """Use cases of feedback, which is accepted for `response_retention_s` after an answer's end."""

    def __init__(
        self,
        store: SqlCaptureStore,
        responses: ResponseLog,
        blobs: BlobStore,
        *,
        response_retention_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._responses, self._blobs = store, responses, blobs
        self._response_retention_s, self._clock = response_retention_s, clock

    async def record(self, parent: str, response_id: str, opinion: Opinion) -> Feedback:
        """Stores an opinion, redacted. ResponseNotFoundError."""
        (tenant,) = TENANT.parse(parent, field="parent")
        if not 0 < len(response_id) <= MAX_RESPONSE_ID:
            raise InvalidArgumentError.of_field("response_id", f"it must have 1 to {MAX_RESPONSE_ID} characters")
        if self._responses.is_waiting(response_id):
            await self._responses.flush()
        now = self._clock()
        response = await self._store.response(tenant, response_id, since=now - self._response_retention_s)
        if response is None:
            raise ResponseNotFoundError(response_id=response_id)
        redacted = dataclasses.replace(opinion, correction=redact(opinion.correction))
        return await self._store.put_feedback(response, redacted, now)

    async def export(self, parent: str, only: ExportFilter) -> CaptureFile:
        """Writes the tenant's feedback to a file. ExportTooLargeError, ExportOvertakenError."""
        (tenant,) = TENANT.parse(parent, field="parent")
        if only.deployment:
            DEPLOYMENT.parse(only.deployment, field="deployment")
        found = await self._store.feedback(tenant, only, limit=MAX_EXPORT_ROWS + 1)
        if len(found) > MAX_EXPORT_ROWS:
            raise ExportTooLargeError(limit=MAX_EXPORT_ROWS)
        parts = {name: await self._store.file(name) for name in {name for _, name in found if name}}
        unfiled = [said.response.response_id for said, name in found if not name]
        texts: dict[str, Text] = {}
        for start in range(0, len(unfiled), EXPORT_BATCH):
            texts |= await self._store.texts(unfiled[start : start + EXPORT_BATCH])
        with tempfile.TemporaryDirectory(prefix="luthier-export-") as folder:
            path = pathlib.Path(folder) / "export.parquet"
            batches = self._batches(found, parts, texts)
            row_count = await asyncio.to_thread(write_export, path, batches, stamp=uuid.uuid4().hex)
            sha256, size_bytes = await asyncio.to_thread(_identity, path)
            times = [said.response.create_time for said, _ in found]
            file = new_file(
                tenant,
                FileKind.EXPORT,
                sha256,
                size_bytes=size_bytes,
                row_count=row_count,
                create_time=self._clock(),
                oldest_time=min(times, default=0.0),
            )
            await self._store.begin_file(file)
            await asyncio.to_thread(self._blobs.put_file, path)
            await asyncio.to_thread(self._blobs.drop_cached, sha256)
        if not await self._store.end_export(file):
            raise ExportOvertakenError(parent=parent)
        return file

    def _batches(
        self, found: Sequence[tuple[Feedback, str]], parts: Mapping[str, CaptureFile | None], texts: Mapping[str, Text]
    ) -> Iterator[list[tuple[Feedback, Text | None]]]:
        """The feedback with its texts, read from one part file at a time."""
        for name, group in itertools.groupby(found, key=lambda pair: pair[1]):
            said = [one for one, _ in group]
            part = parts.get(name)
            of_these = self._texts_of(part, said) if part else texts
            for start in range(0, len(said), EXPORT_BATCH):
                yield [(one, of_these.get(one.response.response_id)) for one in said[start : start + EXPORT_BATCH]]

    def _texts_of(self, part: CaptureFile, said: Sequence[Feedback]) -> dict[str, Text]:
        """The texts of a part file; none if it was deleted meanwhile."""
        try:
            with about(part.name):
                data = self._blobs.read_bytes(part.sha256)
        except BlobNotFoundError:
            return {}
        return read_texts(data, [one.response.response_id for one in said])


def _identity(path: pathlib.Path) -> tuple[str, int]:
    """A file's sha256 and size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
