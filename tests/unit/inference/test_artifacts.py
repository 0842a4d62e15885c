"""What an adapter must be before any engine reads it."""

from __future__ import annotations

import json
import pathlib
import struct
from collections.abc import Callable

import numpy as np
import pytest
from luthierd.inference.artifacts import Artifacts, read_reference
from luthierd.inference.domain import AdapterRevision, BaseModel
from luthierd.inference.errors import AdapterInvalidError
from luthierd.storage.blobs import BlobStore
from luthierd.storage.manifests import Manifest, ManifestInvalidError, put_folder

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"


def safetensors(tensors: dict[str, np.ndarray], *, dtype: str = "F32") -> bytes:
    """A file by the format's specification."""
    header, data = {}, b""
    for name, values in tensors.items():
        content = values.tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def weights(rank: int = 4) -> dict[str, np.ndarray]:
    """One module's matrices."""
    return {
        f"{PREFIX}.lora_A.weight": np.ones((rank, 16), dtype=np.float32),
        f"{PREFIX}.lora_B.weight": np.ones((16, rank), dtype=np.float32),
    }


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A good adapter."""
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_config.json").write_text(json.dumps(CONFIG))
    (made / "adapter_model.safetensors").write_bytes(safetensors(weights()))
    (made / "README.md").write_text("# Model card")
    return made


async def fetch(tmp_path: pathlib.Path, folder: pathlib.Path, *, max_bytes: int = 10**6) -> pathlib.Path:
    """Puts the adapter into a blob store, and has it fetched and checked."""
    blobs = BlobStore(f"file://{tmp_path / 'blobs'}")
    revision = AdapterRevision(
        "tenants/t/adapters/a/revisions/r1", put_folder(blobs, folder).sha256, BaseModel("m", "0")
    )
    artifacts = Artifacts(blobs, tmp_path / "out", max_adapter_bytes=max_bytes)
    return await artifacts.adapter_folder(revision, max_rank=8)


async def test_a_good_adapter_is_laid_out_whole(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    laid_out = await fetch(tmp_path, folder)
    assert {path.name for path in laid_out.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    assert (await fetch(tmp_path, folder)) == laid_out


def set_config(**changes: object) -> Callable[[pathlib.Path], object]:
    """A change of the configuration."""
    return lambda folder: (folder / "adapter_config.json").write_text(json.dumps(CONFIG | changes))


def set_weights(content: bytes) -> Callable[[pathlib.Path], object]:
    """A change of the weights' file."""
    return lambda folder: (folder / "adapter_model.safetensors").write_bytes(content)


BAD = {name: values.copy() for name, values in weights().items()}
BAD[f"{PREFIX}.lora_A.weight"][1, 2] = np.nan
HALF = {f"{PREFIX}.lora_A.weight": np.full((4, 16), 0x7F80, dtype=np.uint16)}
OVERLONG = {"x.lora_A.weight": {"dtype": "F32", "shape": [4, 16], "data_offsets": [0, 256]}}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "adapter_model.bin").write_bytes(b"pickle"), "adapter_model.bin"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "lacks adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
        (set_config(peft_type="IA3"), "only LORA"),
        (set_config(r=64), "rank 64 is beyond the limit of 8"),
        (set_config(use_dora=True), "use_dora"),
        (set_config(modules_to_save=["lm_head"]), "modules_to_save"),
        (set_weights(b""), "not a safetensors file"),
        (set_weights(struct.pack("<Q", 2**40) + b"{}"), "not a safetensors file"),
        (set_weights(struct.pack("<Q", 4) + b"nope"), "cannot be read"),
        (set_weights(safetensors({})), "no tensors"),
        (set_weights(safetensors(BAD)), "not finite"),
        (set_weights(safetensors(HALF, dtype="BF16")), "not finite"),
        (set_weights(safetensors(weights(), dtype="I8")), "the type I8"),
        (set_weights(safetensors(weights(rank=12))), "rank beyond the limit"),
        (set_weights(safetensors({"model.embed.weight": np.ones((4, 4), dtype=np.float32)})), "no LoRA matrix"),
        (set_weights(struct.pack("<Q", len(t := json.dumps(OVERLONG).encode())) + t + b"1234"), "lies outside"),
    ],
)
async def test_a_bad_adapter_is_refused_with_what_is_wrong(
    tmp_path: pathlib.Path, folder: pathlib.Path, spoil: Callable[[pathlib.Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(AdapterInvalidError, match=message):
        await fetch(tmp_path, folder)


async def test_an_adapter_beyond_the_size_limit_is_refused(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    with pytest.raises(AdapterInvalidError, match="more than the limit of 100"):
        await fetch(tmp_path, folder, max_bytes=100)


async def test_a_manifest_whose_paths_leave_the_folder_is_refused(tmp_path: pathlib.Path) -> None:
    blobs = BlobStore(f"file://{tmp_path / 'blobs'}")
    blob = blobs.put_bytes(b"x")
    manifest = blobs.put_bytes(Manifest({"../../evil.json": blob}).to_json())
    artifacts = Artifacts(blobs, tmp_path / "out", max_adapter_bytes=10**6)
    with pytest.raises(ManifestInvalidError):
        await artifacts.adapter_folder(AdapterRevision("r", manifest.sha256, BaseModel("m", "0")), max_rank=8)
    assert not (tmp_path / "evil.json").exists()


def test_references_are_read_and_unknown_forms_give_none(tmp_path: pathlib.Path) -> None:
    row = {"prompt_ids": [1, 2], "completion_ids": [3], "base_logprobs": [-1.0], "tuned_logprobs": [-0.5]}
    (tmp_path / "reference.json").write_text(json.dumps({"dtype": "float32", "rows": [row]}))
    (read,) = read_reference(tmp_path)
    assert (read.prompt_ids, read.tuned_logprobs) == ((1, 2), (-0.5,))
    (tmp_path / "reference.json").write_text('{"rows": 3}')
    assert read_reference(tmp_path) == []
