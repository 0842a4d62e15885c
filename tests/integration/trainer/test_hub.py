"""Imports from a hub on loopback: pinned, checked, resumed; and what is refused before anything large is fetched."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections import namedtuple
from collections.abc import Iterator

import pytest
from luthierd.files import DiskFullError
from luthierd.storage.blobs import BlobStore
from luthierd.storage.manifests import read_manifest
from luthierd.trainer.base_model_files import BaseModelInvalidError
from luthierd.trainer.base_model_hub import HubRefusedError, HubUnavailableError, fetch_model
from luthierd.trainer.domain.base_model import ImportSource
from luthierd.trainer.worker import import_from_hub
from support.small_hub import COMMIT, OTHER_COMMIT, SIGNATURE, SmallHub, small_hub

WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tiny_llama: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """A hub with the tiny model and files that have no place in an import."""
    folder = pathlib.Path(shutil.copytree(tiny_llama, tmp_path / "repository"))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "consolidated.safetensors").write_bytes(b"the same weights in another form")
    (folder / "onnx").mkdir()
    (folder / "onnx/model.safetensors").write_bytes(b"of another library")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    with small_hub(SmallHub(folder)) as served:
        yield served


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "scratch/baseModels/tiny/hub"


def fetched(hub: SmallHub, root: pathlib.Path, revision: str = "main") -> pathlib.Path:
    found = fetch_model(hub.repository, revision, root, endpoint=hub.url)
    assert found.commit == hub.commit
    return found.folder


def test_the_files_of_one_commit_arrive_and_nothing_else(
    hub: SmallHub, root: pathlib.Path, tiny_llama: pathlib.Path
) -> None:
    folder = fetched(hub, root)
    assert folder.name == COMMIT
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {path.name for path in tiny_llama.iterdir()}
    assert all((folder / name).read_bytes() == (tiny_llama / name).read_bytes() for name in names)
    assert all(f"/resolve/{COMMIT}/" in path for _, path, _ in hub.asked if "/resolve/" in path)  # never "main"


def test_a_connection_that_is_cut_goes_on_where_it_stopped(
    hub: SmallHub, root: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    hub.cut_after_bytes, hub.cuts = 100_000, 3
    fetched(hub, root)
    assert SIGNATURE not in caplog.text
    assert hub.downloads(WEIGHTS) == ["", "bytes=100000-", "bytes=200000-", "bytes=300000-"]


def test_an_import_after_a_failed_one_fetches_only_what_is_missing(
    hub: SmallHub, root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cut_after_bytes, hub.cuts = 100_000, 1
    with monkeypatch.context() as broken:
        broken.setattr("huggingface_hub.file_download.time.sleep", stop)
        with pytest.raises(HubUnavailableError, match="goes on where it stopped"):
            fetched(hub, root)
    hub.asked.clear()
    fetched(hub, root)
    assert hub.downloads(WEIGHTS) == ["bytes=100000-"]
    assert hub.downloads("tokenizer.json") == []


def stop(_: float) -> None:
    """Instead of the pause before another try: the worker gives up."""
    raise ConnectionError


def test_bytes_with_another_digest_are_refused(hub: SmallHub, root: pathlib.Path) -> None:
    hub.damaged.add(WEIGHTS)
    with pytest.raises(HubUnavailableError, match=r"model\.safetensors of acme/tiny arrived damaged"):
        fetched(hub, root)
    hub.damaged.clear()
    fetched(hub, root)


def test_a_new_commit_is_another_folder(hub: SmallHub, root: pathlib.Path) -> None:
    first = fetched(hub, root)
    hub.commit = OTHER_COMMIT
    assert fetched(hub, root) != first
    with pytest.raises(HubRefusedError, match=f"no revision {COMMIT}"):
        fetched(hub, root, COMMIT)


def test_what_is_not_shown_is_refused_by_name(
    hub: SmallHub, root: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.token = "hf_secret"
    with pytest.raises(HubRefusedError, match=r"there is no acme/tiny.*HF_TOKEN"):
        fetched(hub, root)
    hub.is_gated = True
    with pytest.raises(HubRefusedError, match="terms to be accepted"):
        fetched(hub, root)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    fetched(hub, root)
    assert "Bearer hf_secret" in hub.tokens
    assert "hf_secret" not in caplog.text


def test_a_hub_that_is_away_is_named(hub: SmallHub, root: pathlib.Path) -> None:
    with pytest.raises(HubUnavailableError, match=r"127\.0\.0\.1:9 did not answer"):
        fetch_model(hub.repository, "main", root, endpoint="http://127.0.0.1:9")


def test_nothing_large_is_fetched_of_what_cannot_be_used(hub: SmallHub, root: pathlib.Path) -> None:
    config = json.loads((hub.folder / "config.json").read_text())
    (hub.folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_evil.Evil"}}))
    with pytest.raises(BaseModelInvalidError, match="auto_map"):
        fetched(hub, root)
    assert hub.downloads(WEIGHTS) == hub.downloads("modeling_evil.py") == []


def test_a_full_disk_is_known_before_the_download(
    hub: SmallHub, root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("luthierd.trainer.base_model_hub.shutil.disk_usage", lambda _: usage(10, 9, 10**6))
    with pytest.raises(DiskFullError, match="of which 1000000 are free"):
        fetched(hub, root)
    assert hub.downloads(WEIGHTS) == []


@pytest.mark.parametrize("have", ["pytorch_model.bin", "consolidated.safetensors"])
def test_a_repository_without_usable_weights_is_refused(hub: SmallHub, root: pathlib.Path, have: str) -> None:
    (hub.folder / WEIGHTS).unlink()
    with pytest.raises(BaseModelInvalidError, match=have):
        fetched(hub, root)


def test_an_adapters_repository_is_refused_with_what_to_do(hub: SmallHub, root: pathlib.Path) -> None:
    (hub.folder / "config.json").rename(hub.folder / "adapter_config.json")
    with pytest.raises(BaseModelInvalidError, match="luthier adapters import"):
        fetched(hub, root)


def test_what_was_stored_knows_its_commit_and_the_scratch_is_gone(
    hub: SmallHub, root: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fetch_model
    monkeypatch.setattr("luthierd.trainer.worker.fetch_model", lambda *where: real(*where, endpoint=hub.url))
    blobs = BlobStore(f"file://{tmp_path / 'blobs'}")
    source = ImportSource(kind="hub", value=hub.repository, label="hub:acme/tiny@main", revision="main")
    info = import_from_hub(source, root, blobs)
    assert info.hub_commit == COMMIT
    assert "config.json" in read_manifest(blobs, info.sha256).files
    assert not root.exists()
    (hub.folder / "config.json").write_text("{")
    with pytest.raises(BaseModelInvalidError):
        import_from_hub(source, root, blobs)
    assert not root.exists()
