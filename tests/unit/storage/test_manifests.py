"""Artifacts of many files: laid out as they were, or refused."""

from __future__ import annotations

import json
import pathlib
import uuid

import pytest
from luthierd.storage.blob_errors import BlobCorruptError, BlobNotFoundError
from luthierd.storage.blobs import Blob, BlobStore
from luthierd.storage.manifests import MAX_MANIFEST_BYTES, ManifestInvalidError, checkout, put_folder, read_manifest


@pytest.fixture(params=["file", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> BlobStore:
    url = f"file://{tmp_path / 'blobs'}" if request.param == "file" else f"memory://{uuid.uuid4().hex}"
    return BlobStore(url, cache=tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "artifact"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deep/weights").write_bytes(b"\x00\x01")
    return folder


def put_manifest(blobs: BlobStore, path: str, blob: Blob) -> str:
    content = {"files": {path: {"sha256": blob.sha256, "size_bytes": blob.size_bytes}}}
    return blobs.put_bytes(json.dumps(content).encode()).sha256


def test_a_folder_comes_back_as_it_was(blobs: BlobStore, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    manifest = checkout(blobs, put_folder(blobs, folder).sha256, tmp_path / "out")
    assert {path: (tmp_path / "out" / path).read_bytes() for path in manifest.files} == {
        "config.json": b"{}",
        "deep/weights": b"\x00\x01",
    }
    assert manifest.size_bytes == 4


def test_the_digest_depends_on_content_and_paths_only(
    blobs: BlobStore, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    first = put_folder(blobs, folder)
    assert put_folder(blobs, folder.rename(tmp_path / "moved")) == first
    (tmp_path / "moved/config.json").rename(tmp_path / "moved/other.json")
    assert put_folder(blobs, tmp_path / "moved") != first


def test_a_checkout_replaces_what_is_there(blobs: BlobStore, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    manifest = put_folder(blobs, folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/config.json").write_text("old")
    checkout(blobs, manifest.sha256, tmp_path / "out")
    assert (tmp_path / "out/config.json").read_text() == "{}"


def test_a_link_is_not_followed_out_of_the_folder(
    blobs: BlobStore, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    assert "link" not in read_manifest(blobs, put_folder(blobs, folder).sha256).files


@pytest.mark.parametrize("path", ["../out-of-it", "/etc/cron.d/x", "a/../../b", "", ".", "a\\b", "a\0b"])
def test_a_path_that_leaves_the_folder_is_refused(blobs: BlobStore, tmp_path: pathlib.Path, path: str) -> None:
    manifest = put_manifest(blobs, path, blobs.put_bytes(b"evil"))
    with pytest.raises(ManifestInvalidError) as caught:
        checkout(blobs, manifest, tmp_path / "deep/out")
    assert caught.value.metadata == {"path": path}
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"files": []}',
        b'{"files": {"a": 1}}',
        b'{"files": {"a": {"sha256": "x"}}}',
        b'{"files": {"a": {"sha256": "../../x", "size_bytes": 1}}}',
        b'{"files": {"a": {"sha256": "", "size_bytes": -1}}}',
    ],
)
def test_what_is_no_manifest_is_refused(blobs: BlobStore, content: bytes) -> None:
    with pytest.raises(ManifestInvalidError):
        read_manifest(blobs, blobs.put_bytes(content).sha256)


def test_a_blob_too_large_for_a_manifest_is_not_read(blobs: BlobStore) -> None:
    large = blobs.put_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
    with pytest.raises(ManifestInvalidError, match="larger"):
        read_manifest(blobs, large.sha256)


def test_a_manifest_that_is_not_there_is_named(blobs: BlobStore, tmp_path: pathlib.Path) -> None:
    with pytest.raises(BlobNotFoundError):
        checkout(blobs, "0" * 64, tmp_path / "out")


def test_a_tampered_manifest_is_refused(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    blobs = BlobStore(f"file://{tmp_path / 'blobs'}")
    manifest = put_folder(blobs, folder)
    path = blobs.local_path(manifest.sha256)
    path.write_bytes(path.read_bytes().replace(b"config.json", b"konfig.json"))
    with pytest.raises(BlobCorruptError):
        checkout(blobs, manifest.sha256, tmp_path / "out")


def test_a_tampered_file_is_refused(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    blobs = BlobStore(f"file://{tmp_path / 'blobs'}")
    manifest = put_folder(blobs, folder)
    blobs.local_path(read_manifest(blobs, manifest.sha256).files["deep/weights"].sha256).write_bytes(b"\x00\x02")
    with pytest.raises(BlobCorruptError):
        checkout(blobs, manifest.sha256, tmp_path / "out")
    assert not (tmp_path / "out/deep/weights").exists()


def test_a_checkout_leaves_alone_what_is_in_place(
    blobs: BlobStore, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Another process may be about to open it."""
    manifest = put_folder(blobs, folder)
    checkout(blobs, manifest.sha256, tmp_path / "out")
    before = (tmp_path / "out/config.json").stat()
    checkout(blobs, manifest.sha256, tmp_path / "out")
    assert (tmp_path / "out/config.json").stat().st_ctime_ns == before.st_ctime_ns


def test_a_damaged_copy_is_replaced_by_the_next_checkout(
    tmp_path: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("cross-device link")

    blobs = BlobStore(f"file://{tmp_path / 'blobs'}")
    manifest = put_folder(blobs, folder)
    monkeypatch.setattr("luthierd.storage.manifests.os.link", fail)
    for _ in range(2):
        checkout(blobs, manifest.sha256, tmp_path / "out")
        assert (tmp_path / "out/deep/weights").read_bytes() == b"\x00\x01"
        (tmp_path / "out/deep/weights").write_bytes(b"\x00\x02")


def test_files_are_copied_where_links_cannot_be(
    tmp_path: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("cross-device link")

    blobs = BlobStore(f"file://{tmp_path / 'blobs'}")
    manifest = put_folder(blobs, folder)
    monkeypatch.setattr("luthierd.storage.manifests.os.link", fail)
    checkout(blobs, manifest.sha256, tmp_path / "out")
    assert (tmp_path / "out/deep/weights").stat().st_nlink == 1
