"""The blob store on an S3 server, over real sockets."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import pytest
from luthierd.config import ConfigError
from luthierd.storage.blob_errors import BlobCorruptError, BlobNotFoundError, BlobStoreUnavailableError
from luthierd.storage.blobs import BlobStore, read_piece
from luthierd.storage.manifests import checkout, put_folder
from support.object_store import ObjectStore, refusing_store

LARGE = bytes(range(256)) * 24_576
"""6 MiB: more than one part of an upload and one block of a download."""


@pytest.fixture
def store(object_store: ObjectStore, tmp_path: pathlib.Path) -> BlobStore:
    return BlobStore(f"{object_store.url}/{tmp_path.name}", cache=tmp_path / "cache")


def test_what_is_stored_comes_back_whole_and_in_pieces(store: BlobStore, tmp_path: pathlib.Path) -> None:
    blob = store.put_bytes(LARGE)
    assert store.read_bytes(blob.sha256) == LARGE
    assert store.local_path(blob.sha256).read_bytes() == LARGE
    piece = read_piece(store, blob.sha256, offset_bytes=blob.size_bytes - 3, limit_bytes=9)
    assert (piece.data, piece.size_bytes) == (LARGE[-3:], len(LARGE))
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact/weights").write_bytes(LARGE)
    checkout(store, put_folder(store, tmp_path / "artifact").sha256, tmp_path / "out")
    assert (tmp_path / "out/weights").read_bytes() == LARGE


def test_a_deleted_object_is_a_blob_that_is_not_there(store: BlobStore) -> None:
    blob = store.put_bytes(b"of one")
    store.delete(blob.sha256)
    assert not store.has(blob.sha256)
    for read in (store.read_bytes, store.local_path, store.size_bytes):
        with pytest.raises(BlobNotFoundError):
            read(blob.sha256)


def test_an_object_that_was_changed_is_noticed_and_can_be_stored_again(store: BlobStore) -> None:
    blob = store.put_bytes(b"the truth")
    assert store.read_range(blob.sha256, 0, 3) == b"the"
    store._files.pipe_file(store._location(blob.sha256), b"the drift")
    store.drop_cached(blob.sha256)
    for read in (store.read_bytes, store.local_path, lambda sha256: store.read_range(sha256, 0, 3)):
        with pytest.raises(BlobCorruptError, match="luthier-tests/"):
            read(blob.sha256)
    store.put_bytes(b"the truth")
    assert store.read_bytes(blob.sha256) == b"the truth"


def every_call(store: BlobStore, sha256: str, tmp_path: pathlib.Path) -> Iterator[Callable[[], object]]:
    (tmp_path / "file").write_bytes(b"other")
    yield lambda: store.has(sha256)
    yield lambda: store.read_bytes(sha256)
    yield lambda: store.read_range(sha256, 0, 1)
    yield lambda: store.size_bytes(sha256)
    yield lambda: store.local_path(sha256)
    yield lambda: store.delete(sha256)
    yield lambda: store.put_bytes(b"new")
    yield lambda: store.put_file(tmp_path / "file")


def test_a_store_that_is_away_is_named_by_every_call_and_works_again_when_it_is_back(
    store: BlobStore, object_store: ObjectStore, tmp_path: pathlib.Path
) -> None:
    blob = store.put_bytes(b"the truth")
    store.drop_cached(blob.sha256)
    object_store.stop()
    try:
        for call in every_call(store, blob.sha256, tmp_path):
            with pytest.raises(BlobStoreUnavailableError, match="see that it runs") as caught:
                call()
            assert caught.value.metadata["location"].startswith("s3://luthier-tests/")
    finally:
        object_store.start()
    assert store.read_bytes(blob.sha256) == b"the truth"
    assert not list((tmp_path / "cache").rglob("*.partial"))


@pytest.mark.usefixtures("object_store")
def test_a_store_that_refuses_the_credentials_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_store(monkeypatch) as url:
        store = BlobStore(url, cache=tmp_path / "cache")
        for call in every_call(store, "0" * 64, tmp_path):
            with pytest.raises(BlobStoreUnavailableError, match="credentials"):
                call()


@pytest.mark.usefixtures("object_store")
def test_a_bucket_that_is_missing_is_no_missing_blob(tmp_path: pathlib.Path) -> None:
    store = BlobStore("s3://no-such-bucket/blobs", cache=tmp_path / "cache")
    with pytest.raises(BlobStoreUnavailableError):
        store.put_bytes(b"new")


@pytest.mark.parametrize("url", ["nosuch://bucket/prefix", "gs://bucket/prefix"])
def test_a_url_that_nothing_here_can_open_names_the_variable_and_the_extra(url: str) -> None:
    with pytest.raises(ConfigError, match=r"LUTHIER_BLOBS_URL.*luthier\[s3\]"):
        BlobStore(url)
