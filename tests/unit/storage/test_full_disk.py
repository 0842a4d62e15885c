"""A real disk that is full: what was there stays, nothing is half written, and work goes on once there is room."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from luthierd.files import DiskFullError
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from support.databases import NO_VERSIONS
from support.full_disk import SmallDisk, small_disk

_replays = sa.table("replays", *map(sa.column, ("key", "fingerprint", "response", "create_time")))


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


def files_on(disk: SmallDisk) -> list[str]:
    """Without the empty file that a sweep locks."""
    return sorted(path.name for path in disk.folder.rglob("*") if path.is_file() and path.stat().st_size)


def test_a_blob_is_stored_whole_or_not_at_all(disk: SmallDisk, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 300_000)
    store = BlobStore(f"file://{disk.folder / 'blobs'}")
    before = store.put_bytes(b"before")
    disk.fill(free_bytes=100_000)
    for put in (lambda: store.put_bytes(b"x" * 300_000), lambda: store.put_file(tmp_path / "file")):
        with pytest.raises(DiskFullError, match="free some space") as caught:
            put()
        assert caught.value.metadata["location"].startswith(str(disk.folder))
    assert files_on(disk) == sorted([before.sha256, "filler"])
    disk.free()
    assert store.read_bytes(store.put_file(tmp_path / "file").sha256) == b"x" * 300_000


def test_a_full_cache_of_a_remote_store_is_named_and_leaves_no_part(disk: SmallDisk, tmp_path: pathlib.Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    blob = BlobStore(url, cache=tmp_path / "writer").put_bytes(b"x" * 300_000)
    reader = BlobStore(url, cache=disk.folder / "cache")
    disk.fill(free_bytes=100_000)
    with pytest.raises(DiskFullError) as caught:
        reader.local_path(blob.sha256)
    assert caught.value.metadata["location"].startswith(str(disk.folder / "cache"))
    assert files_on(disk) == ["filler"]
    disk.free()
    assert reader.local_path(blob.sha256).stat().st_size == 300_000


async def test_a_database_on_a_full_disk_is_read_and_written_again_later(disk: SmallDisk) -> None:
    database = Database(f"sqlite+aiosqlite:///{disk.folder / 'x.db'}", schema="x")
    await database.migrate(NO_VERSIONS)
    count = sa.select(sa.func.count()).select_from(_replays)

    def insert(key: str) -> sa.Insert:
        return sa.insert(_replays).values(key=key, fingerprint="f", response=b"x" * 500_000, create_time=1.0)

    await database.execute(insert("before"))
    disk.fill()
    with pytest.raises(DiskFullError):
        await database.execute(insert("lost"))
    assert (await database.rows(count))[0]["count_1"] == 1
    disk.free()
    await database.execute(insert("after"))
    assert (await database.rows(count))[0]["count_1"] == 2
    await database.close()
