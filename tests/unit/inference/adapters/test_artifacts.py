"""What an adapter must be before any engine reads it."""

from __future__ import annotations

import hashlib
import json
import pathlib
import struct
from collections.abc import Callable

import numpy as np
import pytest
from luthierd.inference.adapters.artifacts import Artifacts
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel
from luthierd.inference.domain.errors import AdapterInvalidError, AdapterTooLargeError
from luthierd.storage.blob_errors import BlobCorruptError
from luthierd.storage.blobs import Blob, BlobStore
from luthierd.storage.manifests import Manifest, ManifestInvalidError, put_folder, read_manifest

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
MODULE = "model.layers.0.self_attn.q_proj"
PREFIX = f"base_model.model.{MODULE}"


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


def write_base(folder: pathlib.Path) -> pathlib.Path:
    """A base model's files, as far as an adapter must fit them."""
    folder.mkdir()
    modules = {f"{MODULE}.weight": np.ones((16, 16), dtype=np.float32), "model.norm.weight": np.ones(16, np.float32)}
    (folder / "model.safetensors").write_bytes(safetensors(modules))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ x }}"}))
    return folder


def lineage(base_sha256: str, **changes: str) -> str:
    """As the trainer writes it, for `write_base`."""
    digests = {
        "sha256": base_sha256,
        "tokenizer_sha256": hashlib.sha256(b"{}").hexdigest(),
        "chat_template_sha256": hashlib.sha256(b"{{ x }}").hexdigest(),
    }
    return json.dumps({"base_model": {"name": "m", **digests, **changes}})


async def fetch(
    tmp_path: pathlib.Path, folder: pathlib.Path, *, max_bytes: int = 10**6, trained_with: dict[str, str] | None = None
) -> pathlib.Path:
    """Puts the adapter into a blob store, and has it fetched and checked."""
    blobs = BlobStore(f"file://{tmp_path / 'blobs'}")
    base = tmp_path / "base"
    base_sha256 = put_folder(blobs, base if base.exists() else write_base(base)).sha256
    if trained_with is not None:
        (folder / "lineage.json").write_text(lineage(base_sha256, **trained_with))
    revision = AdapterRevision(
        "tenants/t/adapters/a/revisions/r1", put_folder(blobs, folder).sha256, BaseModel("m", base_sha256)
    )
    artifacts = Artifacts(blobs, tmp_path / "out", max_adapter_bytes=max_bytes)
    laid_out = await artifacts.fetch(revision)
    await artifacts.verify(revision, laid_out, max_rank=8)
    return laid_out


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


OF_UNKNOWN = {name.replace("q_proj", "qkv"): values for name, values in weights().items()}
WIDE = {f"{PREFIX}.lora_A.weight": np.ones((4, 24), dtype=np.float32)}


@pytest.mark.parametrize(
    ("spoil", "reason", "message"),
    [
        (lambda folder: (folder / "adapter_model.bin").write_bytes(b"\x80\x04K\x01."), "FILE_FORBIDDEN", "model.bin"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "INVALID", "lacks adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "INVALID", "cannot be read"),
        (lambda folder: (folder / "adapter_config.json").write_text("[" * 10**5), "INVALID", "cannot be read"),
        (set_config(peft_type="IA3"), "INVALID", "only LORA"),
        (set_config(r=64), "RANK_TOO_LARGE", "rank 64 exceeds the rank limit of 8"),
        (set_config(use_dora=True), "INVALID", "use_dora"),
        (set_config(modules_to_save=["lm_head"]), "INVALID", "modules_to_save"),
        (set_weights(b""), "INVALID", "header too small"),
        (set_weights(struct.pack("<Q", 2**40) + b"{}"), "INVALID", "header too large"),
        (set_weights(struct.pack("<Q", 4) + b"nope"), "INVALID", "cannot be read"),
        (set_weights(safetensors({})), "INVALID", "no tensors"),
        (set_weights(safetensors(weights())[:-1]), "TRUNCATED", "file not fully covered"),
        (set_weights(safetensors(weights())[:40]), "TRUNCATED", "invalid header length"),
        (set_weights(safetensors(BAD)), "NOT_FINITE", "not finite"),
        (set_weights(safetensors(HALF, dtype="BF16")), "NOT_FINITE", "not finite"),
        (set_weights(safetensors(weights(), dtype="I32")), "INVALID", "the type I32"),
        (set_weights(safetensors(weights(), dtype="F16")), "INVALID", "invalid shape, data type, or offset"),
        (set_weights(safetensors(weights(rank=12))), "RANK_TOO_LARGE", "exceeds the rank limit"),
        (set_weights(safetensors({"model.embed.weight": np.ones((4, 4), np.float32)})), "INVALID", "no LoRA matrix"),
        (set_weights(safetensors(OF_UNKNOWN)), "MODULE_UNKNOWN", "no module model.layers.0.self_attn.qkv"),
        (set_weights(safetensors(WIDE)), "MODULE_UNKNOWN", "does not fit the module"),
    ],
)
async def test_a_bad_adapter_is_refused_with_what_is_wrong(
    tmp_path: pathlib.Path, folder: pathlib.Path, spoil: Callable[[pathlib.Path], object], reason: str, message: str
) -> None:
    spoil(folder)
    with pytest.raises(AdapterInvalidError, match=message) as caught:
        await fetch(tmp_path, folder)
    assert caught.value.reason == f"ADAPTER_{reason}"


async def test_an_adapter_trained_with_what_the_engine_has_passes(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    assert (await fetch(tmp_path, folder, trained_with={}) / "lineage.json").exists()


@pytest.mark.parametrize(
    ("key", "what"),
    [("sha256", "base model"), ("tokenizer_sha256", "tokenizer"), ("chat_template_sha256", "chat template")],
)
async def test_an_adapter_trained_with_something_else_than_the_engine_has_is_refused(
    tmp_path: pathlib.Path, folder: pathlib.Path, key: str, what: str
) -> None:
    with pytest.raises(AdapterInvalidError, match=f"trained with the {what} ffff") as caught:
        await fetch(tmp_path, folder, trained_with={key: "f" * 64})
    assert caught.value.reason == "ADAPTER_OF_OTHER_BASE"


async def test_a_head_that_is_tied_to_the_embedding_can_carry_an_adapter(
    tmp_path: pathlib.Path, folder: pathlib.Path
) -> None:
    base = write_base(tmp_path / "base")
    embedding = {"model.embed_tokens.weight": np.ones((40, 16), dtype=np.float32)}
    (base / "model-2.safetensors").write_bytes(safetensors(embedding))
    head = {"base_model.model.lm_head.lora_B.weight": np.ones((40, 4), dtype=np.float32)}
    (folder / "adapter_model.safetensors").write_bytes(safetensors(head))
    assert await fetch(tmp_path, folder)


async def test_an_adapter_whose_bytes_are_not_those_of_its_digest_is_refused(
    tmp_path: pathlib.Path, folder: pathlib.Path
) -> None:
    blobs = BlobStore(f"file://{tmp_path / 'blobs'}")
    revision = AdapterRevision("r", put_folder(blobs, folder).sha256, BaseModel("m", "0" * 64))
    stored = blobs.local_path(hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest())
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    with pytest.raises(BlobCorruptError):
        await Artifacts(blobs, tmp_path / "out", max_adapter_bytes=10**6).fetch(revision)


async def test_an_adapter_beyond_the_size_limit_is_refused(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    with pytest.raises(AdapterTooLargeError, match="more than the limit of 100"):
        await fetch(tmp_path, folder, max_bytes=100)


async def test_a_manifest_that_claims_to_be_small_is_not_believed(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    blobs = BlobStore(f"file://{tmp_path / 'blobs'}")
    files = read_manifest(blobs, put_folder(blobs, folder).sha256).files
    lie = blobs.put_bytes(Manifest({path: Blob(blob.sha256, 1) for path, blob in files.items()}).to_json())
    artifacts = Artifacts(blobs, tmp_path / "out", max_adapter_bytes=100)
    with pytest.raises(AdapterTooLargeError):
        await artifacts.fetch(AdapterRevision("r", lie.sha256, BaseModel("m", "0")))


async def test_a_manifest_whose_paths_leave_the_folder_is_refused(tmp_path: pathlib.Path) -> None:
    blobs = BlobStore(f"file://{tmp_path / 'blobs'}")
    blob = blobs.put_bytes(b"x")
    manifest = blobs.put_bytes(Manifest({"../../evil.json": blob}).to_json())
    artifacts = Artifacts(blobs, tmp_path / "out", max_adapter_bytes=10**6)
    with pytest.raises(ManifestInvalidError):
        await artifacts.fetch(AdapterRevision("r", manifest.sha256, BaseModel("m", "0")))
    assert not (tmp_path / "evil.json").exists()
