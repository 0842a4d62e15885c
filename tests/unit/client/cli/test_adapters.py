from __future__ import annotations

import hashlib
import json

import pytest
from luthier.trainer.v1 import adapter_import_pb2 as pb

REVISION = "tenants/acme/adapters/style/revisions/r1"
IMPORT = "tenants/acme/adapterImports/i1"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def folder(tmp_path):
    """What PEFT saved."""
    made = tmp_path / "peft"
    made.mkdir()
    (made / CONFIG).write_text("{}")
    (made / WEIGHTS).write_bytes(b"weights")
    return made


@pytest.fixture
def importing(services):
    """A service that holds every file already, and an import that succeeds."""
    done = {"name": IMPORT, "state": pb.ADAPTER_IMPORT_STATE_SUCCEEDED, "adapter_revision": REVISION}
    services.answers |= {
        "WriteAdapterFile": {"committed_bytes": 1000},
        "CreateAdapterImport": {"adapter_import": {"name": IMPORT, "state": pb.ADAPTER_IMPORT_STATE_QUEUED}},
        "GetAdapterImport": {"adapter_import": done | {"notes": ["left out lm_head.weight: as in the base model"]}},
        "WatchAdapterImport": [
            {"event": {"event_id": 1, "message": "checking the weights"}},
            {"event": {"event_id": 2, "state": pb.ADAPTER_IMPORT_STATE_SUCCEEDED}},
        ],
    }
    return services


async def test_an_import_is_watched_and_ends_with_its_revision_and_notes(importing, luthier, folder):
    found = await luthier("adapters", "import", "style", folder, "--base", "m")
    assert (found.code, found.out) == (0, f"{REVISION}\n")
    assert "checking the weights" in found.err
    assert "note: left out lm_head.weight" in found.err
    [request] = importing.asked["CreateAdapterImport"]
    wanted = request.adapter_import
    assert (wanted.adapter, wanted.base_model) == ("tenants/acme/adapters/style", "baseModels/m")
    assert {file.path: file.sha256 for file in wanted.files} == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (CONFIG, WEIGHTS)
    }


async def test_a_detached_import_says_how_to_watch_and_cancel_works(importing, luthier, folder):
    found = await luthier("adapters", "import", "style", folder, "--base", "m", "--detach")
    assert (found.code, found.out) == (0, f"{IMPORT}\n")
    assert f"luthier jobs watch {IMPORT}" in found.err
    assert (await luthier("jobs", "watch", IMPORT)).out == f"{REVISION}\n"
    assert (await luthier("jobs", "cancel", IMPORT)).code == 0
    assert importing.asked["CancelAdapterImport"][0].name == IMPORT
    importing.answers["ListAdapterImports"] = {"adapter_imports": [{"name": IMPORT, "state": 2}]}
    assert "adapter import" in (await luthier("jobs", "list", "--active")).out


async def test_a_folder_that_is_no_adapter_is_refused(importing, luthier, tmp_path):
    found = await luthier("adapters", "import", "style", tmp_path, "--base", "m")
    assert found.code == 65
    assert "has no adapter_config.json and no adapter_model.safetensors" in found.err
    assert "CreateAdapterImport" not in importing.asked


@pytest.fixture
def exporting(services):
    """A revision of one file, which is also its own manifest: canned answers are the same for every path."""
    manifest = b'{"files":{}}'
    sha256 = hashlib.sha256(manifest).hexdigest()
    services.answers |= {
        "GetAdapterRevision": {"revision": {"name": REVISION, "sha256": sha256, "base_model": "baseModels/m"}},
        "ReadAdapterRevision": {"data": manifest, "size_bytes": len(manifest), "sha256": sha256},
    }
    return services


async def test_an_export_writes_a_new_folder_and_overwrites_nothing(exporting, luthier, tmp_path):
    found = await luthier("adapters", "export", "style/r1", tmp_path / "deep/out")
    assert (found.code, found.out) == (0, f"{tmp_path / 'deep/out'}\n")
    assert (tmp_path / "deep/out").is_dir()
    again = await luthier("adapters", "export", "style/r1", tmp_path / "deep/out")
    assert again.code == 65
    assert "nothing is overwritten" in again.err
    assert json.loads((await luthier("adapters", "export", "style/r1", tmp_path / "b", "--json")).out)["revision"]


@pytest.mark.parametrize("path", ["../x", "a/b", "/etc/passwd", ".."])
async def test_an_export_leaves_nothing_behind_when_the_service_lies(exporting, luthier, tmp_path, path):
    exporting.answers["GetAdapterRevision"]["revision"]["sha256"] = "0" * 64
    assert (await luthier("adapters", "export", "style/r1", tmp_path / "out")).code == 70
    manifest = json.dumps({"files": {path: {"sha256": "0" * 64, "size_bytes": 1}}}).encode()
    sha256 = hashlib.sha256(manifest).hexdigest()
    exporting.answers["GetAdapterRevision"]["revision"]["sha256"] = sha256
    exporting.answers["ReadAdapterRevision"] = {"data": manifest, "size_bytes": len(manifest), "sha256": sha256}
    found = await luthier("adapters", "export", "style/r1", tmp_path / "out")
    assert (found.code, "not a plain name" in found.err) == (70, True)
    assert not (tmp_path / "out").exists()
    assert [one.name for one in tmp_path.iterdir() if "part" in one.name] == []
