"""The blob store: whole or not at all, never other bytes than the name says."""

from __future__ import annotations

import errno
import hashlib
import os
import pathlib
import resource
import signal
import threading
import time
import uuid
from collections.abc import Iterator

import pytest
from luthierd import files as files_module
from luthierd.config import ServerConfig
from luthierd.errors import InvalidArgumentError
from luthierd.files import DiskFullError, write_atomically
from luthierd.storage import blobs as blobs_module
from luthierd.storage.blob_errors import BlobCorruptError, BlobNotFoundError, BlobStoreUnavailableError, about
from luthierd.storage.blobs import Blob, BlobStore, Piece, read_piece, verify_file
from luthierd.storage.database import Database

ABSENT = hashlib.sha256(b"never stored").hexdigest()


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> BlobStore:
    """A local store, and one of fsspec's remote kinds."""
    url = f"file://{tmp_path / 'blobs'}" if request.param == "file" else f"memory://{uuid.uuid4().hex}/blobs"
    return BlobStore(url, cache=tmp_path / "cache")


@pytest.fixture
def local(tmp_path: pathlib.Path) -> BlobStore:
    return BlobStore(f"file://{tmp_path / 'blobs'}")


def files_below(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_bytes_come_back_under_their_digest(store: BlobStore) -> None:
    blob = store.put_bytes(b"some bytes")
    assert blob == Blob(hashlib.sha256(b"some bytes").hexdigest(), 10)
    assert store.read_bytes(blob.sha256) == b"some bytes"
    assert store.has(blob.sha256)
    assert store.size_bytes(blob.sha256) == 10


def test_a_file_and_its_bytes_are_one_blob(store: BlobStore, tmp_path: pathlib.Path) -> None:
    content = bytes(range(256)) * 8192  # more than one chunk
    (tmp_path / "file").write_bytes(content)
    assert store.put_file(tmp_path / "file") == store.put_bytes(content)
    assert store.local_path(hashlib.sha256(content).hexdigest()).read_bytes() == content


def test_an_empty_blob_is_a_blob(store: BlobStore) -> None:
    blob = store.put_bytes(b"")
    assert store.read_bytes(blob.sha256) == b""


def test_a_piece_is_read_from_any_point_and_past_the_end_is_empty(store: BlobStore) -> None:
    blob = store.put_bytes(b"0123456789")
    assert [store.read_range(blob.sha256, at, 4) for at in (0, 4, 8, 12)] == [b"0123", b"4567", b"89", b""]


def test_a_blob_that_is_not_there_is_named(store: BlobStore) -> None:
    for read in (store.read_bytes, store.size_bytes, store.local_path, lambda sha256: store.read_range(sha256, 0, 1)):
        with pytest.raises(BlobNotFoundError, match=ABSENT) as caught:
            read(ABSENT)
        assert caught.value.metadata == {"sha256": ABSENT}
    assert not store.has(ABSENT)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, ABSENT[:-1], f"{ABSENT}/..", f"{ABSENT}\n"])
def test_what_is_not_a_digest_reaches_no_file(store: BlobStore, name: str) -> None:
    for read in (store.read_bytes, store.size_bytes, store.local_path, store.has):
        with pytest.raises(InvalidArgumentError):
            read(name)


def damage(store: BlobStore, sha256: str) -> None:
    """One other word of the same length."""
    location = store._location(sha256)
    store._files.pipe_file(location, store._files.cat_file(location).replace(b"truth", b"drift"))


def test_changed_bytes_are_never_used(store: BlobStore) -> None:
    blob = store.put_bytes(b"the truth")
    damage(store, blob.sha256)
    store.drop_cached(blob.sha256)  # an intact copy there would be a way out
    for read in (store.read_bytes, store.local_path, lambda sha256: store.read_range(sha256, 0, 3)):
        with pytest.raises(BlobCorruptError, match="restore this file from a backup") as caught:
            read(blob.sha256)
        assert caught.value.metadata == {
            "sha256": blob.sha256,
            "location": store._location(blob.sha256),
            "actual_sha256": hashlib.sha256(b"the drift").hexdigest(),
        }


def test_bytes_that_change_between_two_pieces_are_noticed(store: BlobStore) -> None:
    blob = store.put_bytes(b"the truth")
    assert store.read_range(blob.sha256, 0, 4) == b"the "
    damage(store, blob.sha256)
    with pytest.raises(BlobCorruptError):
        store.read_range(blob.sha256, 4, 5)


def test_pieces_of_a_blob_that_stays_as_it_is_are_verified_once(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = store.put_bytes(b"the truth")
    store.read_range(blob.sha256, 0, 4)
    monkeypatch.setattr(blobs_module, "_check", None)  # a second look would call it
    assert store.read_range(blob.sha256, 4, 5) == b"truth"


def test_storing_the_same_bytes_again_repairs_a_damaged_blob(store: BlobStore, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"the truth")
    blob = store.put_bytes(b"the truth")
    for put in (lambda: store.put_bytes(b"the truth"), lambda: store.put_file(tmp_path / "file")):
        damage(store, blob.sha256)
        assert put() == blob
        assert store.read_bytes(blob.sha256) == b"the truth"


def test_a_damaged_local_copy_is_thrown_away_and_fetched_again(tmp_path: pathlib.Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    blob = BlobStore(url, cache=tmp_path / "writer").put_bytes(b"the truth")
    reader = BlobStore(url, cache=tmp_path / "reader")
    path = reader.local_path(blob.sha256)
    path.write_bytes(b"the drift")
    assert reader.local_path(blob.sha256).read_bytes() == b"the truth"
    path.write_bytes(b"the drift")
    reader._files.rm(reader._location(blob.sha256))
    with pytest.raises(BlobNotFoundError):  # nothing to fetch it from
        reader.local_path(blob.sha256)
    assert files_below(tmp_path / "reader") == []


def test_bytes_damaged_on_their_way_are_fetched_again(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlobStore(f"memory://{uuid.uuid4().hex}", cache=tmp_path)
    blob = store.put_bytes(b"the truth")
    answers = iter([b"the dr", b"the truth"])
    monkeypatch.setattr(store._files, "cat_file", lambda _: next(answers))
    assert store.read_bytes(blob.sha256) == b"the truth"


def test_an_error_names_the_resource_whose_bytes_were_read(store: BlobStore) -> None:
    with pytest.raises(BlobNotFoundError, match=f"^the train split of r1: the blob {ABSENT}") as caught:  # noqa: SIM117
        with about("the train split of r1"):
            store.read_bytes(ABSENT)
    assert caught.value.metadata == {"sha256": ABSENT, "resource": "the train split of r1"}


def test_bytes_changed_in_a_remote_store_never_reach_the_cache(tmp_path: pathlib.Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    blob = BlobStore(url, cache=tmp_path / "writer").put_bytes(b"the truth")
    reader = BlobStore(url, cache=tmp_path / "reader")
    reader._files.pipe_file(reader._location(blob.sha256), b"something else")
    with pytest.raises(BlobCorruptError):
        reader.local_path(blob.sha256)
    assert files_below(tmp_path / "reader") == []


def test_a_remote_blob_is_fetched_once(tmp_path: pathlib.Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    blob = BlobStore(url, cache=tmp_path / "writer").put_bytes(b"weights")
    reader = BlobStore(url, cache=tmp_path / "reader")
    first = reader.local_path(blob.sha256)
    reader._files.rm(reader._location(blob.sha256))
    assert reader.local_path(blob.sha256) == first
    assert first.read_bytes() == b"weights"


def test_a_file_that_changes_while_it_is_stored_is_refused(
    store: BlobStore, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "growing"
    path.write_bytes(b"first")
    digest = hashlib.sha256(b"first").hexdigest()
    renew = store.renew

    def changed_meanwhile(sha256: str) -> bool:
        path.write_bytes(b"second")
        return renew(sha256)

    monkeypatch.setattr(store, "renew", changed_meanwhile)
    with pytest.raises(BlobCorruptError):
        store.put_file(path)
    assert not store.has(digest)


def test_a_write_that_breaks_off_leaves_nothing(tmp_path: pathlib.Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionError("the source is gone")

    with pytest.raises(ConnectionError):
        write_atomically(tmp_path / "folder/file", chunks())
    assert files_below(tmp_path) == []


def test_a_file_is_replaced_at_one_moment(tmp_path: pathlib.Path) -> None:
    """While the new bytes are being written, the old ones are there, whole."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = []

    def chunks() -> Iterator[bytes]:
        yield b"ne"
        seen.append(path.read_bytes())
        yield b"w"

    write_atomically(path, chunks())
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


def test_a_blob_is_synced_before_it_has_its_name(local: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    fsync, rename = files_module.os.fsync, pathlib.Path.rename
    monkeypatch.setattr(files_module.os, "fsync", lambda fd: (steps.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(pathlib.Path, "rename", lambda self, to: (steps.append("rename"), rename(self, to))[1])
    local.put_bytes(b"durable")
    assert steps == ["fsync", "rename", "fsync"]  # the file, its name, the folder


def test_many_threads_may_store_the_same_blob(local: BlobStore, tmp_path: pathlib.Path) -> None:
    content = b"x" * 3_000_000
    threads = [threading.Thread(target=local.put_bytes, args=(content,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert local.read_bytes(hashlib.sha256(content).hexdigest()) == content
    assert len(files_below(tmp_path / "blobs")) == 1


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """No file of this process may grow beyond 64 KiB while the test runs: what a full disk looks like."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files_only")
def test_a_full_disk_is_said_and_leaves_nothing(local: BlobStore, tmp_path: pathlib.Path) -> None:
    digest = hashlib.sha256(b"x" * 100_000).hexdigest()
    with pytest.raises(DiskFullError, match="free some space") as caught:
        local.put_bytes(b"x" * 100_000)
    assert caught.value.metadata["location"].startswith(str(tmp_path / "blobs"))
    assert files_below(tmp_path) == []
    assert not local.has(digest)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_and_a_spent_quota_are_both_a_full_disk(
    local: BlobStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(number, "no room")

    monkeypatch.setattr(files_module.os, "fsync", fail)
    with pytest.raises(DiskFullError):
        local.put_bytes(b"x")


def test_another_fault_of_the_disk_is_a_store_that_is_away(local: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(files_module.os, "fsync", fail)
    with pytest.raises(BlobStoreUnavailableError) as caught:
        local.put_bytes(b"x")
    assert caught.value.metadata["cause"] == "OSError"


def test_a_file_is_held_against_its_digest(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    verify_file(tmp_path / "file", hashlib.sha256(b"abc").hexdigest())
    with pytest.raises(BlobCorruptError, match="file"):
        verify_file(tmp_path / "file", ABSENT)


def test_storing_twice_writes_once(local: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    local.put_bytes(b"again")
    monkeypatch.setattr(blobs_module, "write_atomically", None)  # a second write would call it
    local.put_bytes(b"again")


def test_a_deleted_blob_is_gone_from_the_store_and_the_cache_and_may_be_deleted_again(
    store: BlobStore, tmp_path: pathlib.Path
) -> None:
    blob, other = store.put_bytes(b"of one"), store.put_bytes(b"of another")
    store.local_path(blob.sha256)
    store.delete(blob.sha256)
    store.delete(blob.sha256)
    assert not store.has(blob.sha256)
    assert blob.sha256 not in files_below(tmp_path)
    assert store.read_bytes(other.sha256) == b"of another"


def test_a_blob_dropped_from_the_cache_stays_in_the_store(store: BlobStore, tmp_path: pathlib.Path) -> None:
    blob = store.put_bytes(b"kept")
    store.drop_cached(blob.sha256)
    assert files_below(tmp_path / "cache") == []
    assert store.read_bytes(blob.sha256) == b"kept"


# --- pieces ---


def test_a_piece_says_what_the_whole_is(store: BlobStore) -> None:
    blob = store.put_bytes(b"0123456789")
    assert read_piece(store, blob.sha256, offset_bytes=2, limit_bytes=3) == Piece(b"234", 10, blob.sha256)
    assert read_piece(store, blob.sha256, offset_bytes=10, limit_bytes=3) == Piece(b"", 10, blob.sha256)


def test_a_limit_of_zero_or_above_the_most_is_the_most(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthierd.storage.blobs.MAX_PIECE_BYTES", 4)
    blob = store.put_bytes(b"0123456789")
    assert [len(read_piece(store, blob.sha256, offset_bytes=0, limit_bytes=limit).data) for limit in (0, 3, 9)] == [
        4,
        3,
        4,
    ]


@pytest.mark.parametrize("wrong", [{"offset_bytes": -1, "limit_bytes": 0}, {"offset_bytes": 0, "limit_bytes": -1}])
def test_a_negative_range_is_refused(store: BlobStore, wrong: dict[str, int]) -> None:
    blob = store.put_bytes(b"0123456789")
    with pytest.raises(InvalidArgumentError, match="is negative"):
        read_piece(store, blob.sha256, **wrong)


def test_the_store_lists_its_blobs(store: BlobStore) -> None:
    blobs = {store.put_bytes(data) for data in (b"one", b"three")}
    assert {Blob(found.sha256, found.size_bytes) for found in store.list()} == blobs
    assert all(abs(found.modified_time - time.time()) < 60 for found in store.list())


def test_only_a_blob_that_is_old_enough_is_deleted(store: BlobStore) -> None:
    sha256 = store.put_bytes(b"one").sha256
    assert not store.delete_older(sha256, time.time() - 60)
    assert store.delete_older(sha256, time.time() + 60)
    assert not store.delete_older(sha256, time.time() + 60)
    assert not store.has(sha256)


def test_an_old_object_is_written_again_when_it_is_stored_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = BlobStore(f"memory://{uuid.uuid4().hex}/blobs", cache=tmp_path / "cache")
    sha256 = remote.put_bytes(b"one").sha256
    [first] = remote.list()
    monkeypatch.setattr(blobs_module, "RENEWAL_S", 0.0)
    assert remote.put_bytes(b"one").sha256 == sha256
    [second] = remote.list()
    assert second.modified_time > first.modified_time


@pytest.mark.parametrize("name", ["a b", "ü#1", "a?x=1", "100%", "%20", "[a]*", "a::b", "~", "file:"])
async def test_a_homes_name_is_taken_literally(tmp_path: pathlib.Path, name: str) -> None:
    home = tmp_path / name
    store = BlobStore.of(ServerConfig(home=home))
    blob = store.put_bytes(b"kept")
    assert store.read_bytes(blob.sha256) == store.local_path(blob.sha256).read_bytes() == b"kept"
    assert [found.sha256 for found in store.list()] == [blob.sha256]
    database = Database.of(ServerConfig(home=home), "trainer")
    await database.migrate(tmp_path / "100%(here)s")
    await database.close()
    assert os.listdir(tmp_path) == [name]
    assert {"blobs", "trainer.db"} <= set(os.listdir(home))
