"""Feedback and capture over a real SQLite file and real blobs, with a clock that the test moves."""

from __future__ import annotations

import pathlib
import tempfile
from dataclasses import dataclass, field

from luthierd.inference.build import VERSIONS, Capturing, make_capturing
from luthierd.inference.feedback.store import SqlCaptureStore
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database

RETENTION_S = 1000.0
START = 1_800_000_000.0

_migrated: list[bytes] = []
"""A migrated database file: migrating takes longer than all else in a test."""


@dataclass
class Clock:
    """Time stands still until it is moved."""

    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass(kw_only=True)
class CaptureParts:
    """The parts and what they stand on. `close` it."""

    capturing: Capturing
    store: SqlCaptureStore
    blobs: BlobStore
    clock: Clock
    database: Database
    folder: pathlib.Path
    temporary: tempfile.TemporaryDirectory[str] = field(repr=False)

    def blob_count(self) -> int:
        """Files in the blob store."""
        return sum(path.is_file() for path in (self.folder / "blobs").rglob("*"))

    async def close(self) -> None:
        """Writes what waits, as the server does at its end."""
        await self.capturing.responses.flush()
        await self.database.close()
        self.temporary.cleanup()


async def make_capture_parts(*, clock: Clock | None = None) -> CaptureParts:
    """Parts with nothing in them."""
    clock = clock or Clock()
    temporary = tempfile.TemporaryDirectory(prefix="luthier-capture-")
    folder = pathlib.Path(temporary.name)
    file = folder / "inference.db"
    if _migrated:
        file.write_bytes(_migrated[0])
    database = Database(f"sqlite+aiosqlite:///{file}", schema="inference")
    if not _migrated:
        await database.migrate(VERSIONS)
        await database.close()
        _migrated.append(file.read_bytes())
    return over(database, temporary, clock)


def over(database: Database, temporary: tempfile.TemporaryDirectory[str], clock: Clock) -> CaptureParts:
    """The parts over what is there, as after a restart."""
    folder = pathlib.Path(temporary.name)
    store, blobs = SqlCaptureStore(database), BlobStore(f"file://{folder / 'blobs'}", cache=folder / "cache")
    capturing = make_capturing(
        store, blobs, response_retention_s=RETENTION_S, capture_part_s=300.0, capture_sweep_s=3600.0, clock=clock
    )
    return CaptureParts(
        capturing=capturing,
        store=store,
        blobs=blobs,
        clock=clock,
        database=database,
        folder=folder,
        temporary=temporary,
    )
