"""Reads a base model from a folder or an installed package, checks it, and lays it out as a Hugging Face checkpoint.

Runs in a worker process. Nothing of the model is executed: safetensors weights only, no pickles, no custom code.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import pathlib
import shutil
from collections.abc import Collection
from typing import Any

import safetensors

from luthierd.errors import InvalidArgumentError
from luthierd.storage.blobs import BlobStore
from luthierd.storage.manifests import put_folder, read_manifest
from luthierd.trainer.domain.base_model import (
    BaseModelInfo,
    ImportPathNotFoundError,
    ImportSource,
    PackageNotFoundError,
)

COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
)
"""Files of a checkpoint that are taken over, besides its weights."""
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Where transformers looks for weights: in one file, or in those that the index names."""
HARMLESS = ("rotary_emb.inv_freq",)
"""Tensors that old checkpoints have and every class computes."""


class BaseModelInvalidError(InvalidArgumentError):
    """The files are not a model that can be trained and served."""

    reason = "BASE_MODEL_INVALID"
    field_name = "path"

    def __init__(self, problem: str, **metadata: str) -> None:
        super().__init__(problem, metadata=metadata)


def import_base_model(source: ImportSource, folder: pathlib.Path, blobs: BlobStore) -> BaseModelInfo:
    """Lays the model out in `folder`, which is emptied first, and stores it. The errors of the functions below."""
    shutil.rmtree(folder, ignore_errors=True)
    if source.kind == "package":
        import_package(source.value, folder)
    else:
        import_folder(pathlib.Path(source.value), folder)
    return inspect(folder, blobs)


def import_folder(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a checkpoint's known files. ImportPathNotFoundError, BaseModelInvalidError."""
    if not source.is_dir():
        raise ImportPathNotFoundError(str(source))
    names = [path.name for path in source.iterdir() if path.is_file()]
    weights = weight_files(names, index=source / INDEX if INDEX in names else None)
    target.mkdir(parents=True, exist_ok=True)
    for name in [*weights, *(name for name in COPIED if name in names)]:
        shutil.copyfile(source / name, target / name)


def weight_files(names: Collection[str], *, index: pathlib.Path | None) -> list[str]:
    """Those of a checkpoint's files that transformers reads its weights from. BaseModelInvalidError."""
    if index is not None:
        shards = _read_json(index).get("weight_map")
        wanted = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
        missing = [name for name in wanted if name not in names or not name.endswith(".safetensors")]
        if missing or not wanted:
            raise BaseModelInvalidError(
                f"{INDEX} names {', '.join(missing[:3]) or 'no file'}, which is not there; copy the model again",
                file=INDEX,
            )
        return wanted
    if WEIGHTS in names:
        return [WEIGHTS]
    others = sorted(name for name in names if name.endswith((".safetensors", ".bin", ".pt", ".pth", ".gguf")))
    found = f" (found {', '.join(others[:5])}; save it with `save_pretrained` of transformers)" if others else ""
    raise BaseModelInvalidError(f"there is no {WEIGHTS} and no {INDEX}{found}", file=WEIGHTS)


def import_package(package: str, target: pathlib.Path) -> None:
    """Converts the GGUF file that an installed package carries. PackageNotFoundError, BaseModelInvalidError."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise PackageNotFoundError(package) from None
    found = [pathlib.Path(str(file.locate())) for file in files if str(file).endswith(".gguf")]
    if len(found) != 1:
        raise BaseModelInvalidError(
            f"the package {package} holds {len(found)} GGUF files, 1 is needed", package=package, count=str(len(found))
        )
    _convert_gguf(found[0], target)


def _convert_gguf(path: pathlib.Path, target: pathlib.Path) -> None:
    """Without `dequantize` the weights stay packed, which can be neither saved nor tuned."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    unpacked = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(path.parent, quantization_config=unpacked, **where)
    model.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(path.parent, **where).save_pretrained(target)


def inspect(folder: pathlib.Path, blobs: BlobStore) -> BaseModelInfo:
    """Checks the checkpoint in `folder`, stores it, and says what it is. BaseModelInvalidError."""
    architecture, window = check_description(folder)
    parameter_count = sum(safetensors_parameter_count(path) for path in sorted(folder.glob("*.safetensors")))
    check_tensors(folder)
    manifest = put_folder(blobs, folder)
    return BaseModelInfo(
        sha256=manifest.sha256,
        tokenizer_sha256=hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest(),
        chat_template_sha256=hashlib.sha256(chat_template(folder).encode()).hexdigest(),
        architecture=architecture,
        parameter_count=parameter_count,
        context_window_tokens=window,
        size_bytes=read_manifest(blobs, manifest.sha256).size_bytes,
    )


def check_description(folder: pathlib.Path) -> tuple[str, int]:
    """Checks everything but the weights; the architecture and the context window. BaseModelInvalidError."""
    config = _read_json(folder / "config.json")
    if config.get("auto_map"):
        raise BaseModelInvalidError("config.json asks for custom code (auto_map), which is never run; remove it")
    for needed in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / needed).is_file():
            raise BaseModelInvalidError(f"{needed} is missing; save the tokenizer in the same folder", file=needed)
    architectures, window = config.get("architectures") or [], config.get("max_position_embeddings")
    if len(architectures) != 1 or not str(architectures[0]).endswith("ForCausalLM"):
        raise BaseModelInvalidError(
            f"config.json names {architectures}; one ...ForCausalLM is needed", file="config.json"
        )
    if not isinstance(window, int) or window < 1:
        raise BaseModelInvalidError("config.json names no max_position_embeddings", file="config.json")
    chat_template(folder)
    return str(architectures[0]), window


def check_tensors(folder: pathlib.Path) -> None:
    """Loads the model and compares its tensors with those of its class: transformers would fill in random numbers for
    what is missing, and go on. BaseModelInvalidError.
    """
    from transformers import AutoModelForCausalLM

    where: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    try:
        _, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True, **where
        )
    except Exception as error:  # transformers raises many types
        reason = next(iter(str(error).splitlines()), "")[:300]
        raise BaseModelInvalidError(
            f"transformers cannot load the model ({type(error).__name__}: {reason}); try it there first",
            detail=type(error).__name__,
        ) from error
    for kind, advice in (
        ("missing_keys", "the checkpoint lacks"),
        ("unexpected_keys", "the model's class does not know"),
        ("mismatched_keys", "the model's class has in another shape"),
        ("error_msgs", "transformers cannot convert"),
    ):
        if names := sorted(str(name) for name in found.get(kind) or () if not str(name).endswith(HARMLESS)):
            raise BaseModelInvalidError(
                f"{advice} {len(names)} tensors, such as {', '.join(names[:3])}; save the model with `save_pretrained` "
                "of the class that config.json names",
                tensor=names[0],
                count=str(len(names)),
            )


def safetensors_parameter_count(path: pathlib.Path) -> int:
    """Parameters by the file's header; tied weights are stored, and counted, once. BaseModelInvalidError."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping
    except (safetensors.SafetensorError, OSError) as error:
        raise BaseModelInvalidError(
            f"{path.name} is cut off or not a safetensors file ({error}); copy it again", file=path.name
        ) from error


def chat_template(folder: pathlib.Path) -> str:
    """The chat template's text, from its own file or the tokenizer's configuration. BaseModelInvalidError."""
    path = folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8") if path.is_file() else None
    template = template or _read_json(folder / "tokenizer_config.json").get("chat_template")
    if not isinstance(template, str) or not template:
        raise BaseModelInvalidError("the tokenizer has no chat template; add chat_template.jinja", file=path.name)
    return template


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BaseModelInvalidError(f"{path.name} is missing", file=path.name) from None
    except ValueError as error:
        raise BaseModelInvalidError(f"{path.name} is not JSON: {error}", file=path.name) from error
    if not isinstance(content, dict):
        raise BaseModelInvalidError(f"{path.name} is not a JSON object", file=path.name)
    return content
