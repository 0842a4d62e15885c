"""Checks of an adapter's files before any engine reads them. Each refusal has its own reason."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from luthierd.inference.domain.deployment import AdapterRevision
from luthierd.inference.domain.errors import (
    AdapterFileForbiddenError,
    AdapterInvalidError,
    AdapterModuleUnknownError,
    AdapterNotFiniteError,
    AdapterOtherBaseError,
    AdapterRankTooLargeError,
    AdapterTooLargeError,
    AdapterTruncatedError,
)
from luthierd.storage.manifests import Manifest

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
REFERENCE, LINEAGE = "reference.json", "lineage.json"
HARMLESS_SUFFIXES = {".json", ".md", ".safetensors", ".txt"}
"""What an adapter may consist of. Pickles (`.bin`, `.pt`) run code when they are read."""

EXPONENT_BITS = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}
"""A number whose exponent bits are all set is infinite or NaN (IEEE 754)."""

LORA_TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<half>[AB])(\.weight)?"
)
"""PEFT's names: A reads a module's input, B writes its output."""

HEAD, EMBEDDING = "lm_head", "model.embed_tokens"
"""A model that ties its head to its embedding stores no weights for the head."""

TRUNCATED = ("file not fully covered", "invalid header length")
"""In the messages of safetensors: the file is shorter than its header says."""


class Tensor(NamedTuple):
    """A tensor's type, in the names of safetensors, and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class BaseFacts:
    """What an adapter must fit. `shapes`: the weight of each module, (outputs, inputs) for a linear one.

    Digests are `BaseModel.tokenizer_sha256` and `.chat_template_sha256` of the trainer; empty without such a file.
    """

    shapes: Mapping[str, tuple[int, ...]]
    tokenizer_sha256: str
    chat_template_sha256: str


def read_base_facts(folder: pathlib.Path) -> BaseFacts:
    """The facts of a base model's folder. SafetensorError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights = {name: tensor for name, tensor in _read_tensors(path).items() if name.endswith(".weight")}
        shapes |= {name.removesuffix(".weight"): tensor.shape for name, tensor in weights.items()}
    if EMBEDDING in shapes:
        shapes.setdefault(HEAD, shapes[EMBEDDING])
    tokenizer = folder / "tokenizer.json"
    template = _chat_template(folder)
    return BaseFacts(
        shapes=shapes,
        tokenizer_sha256=hashlib.sha256(tokenizer.read_bytes()).hexdigest() if tokenizer.is_file() else "",
        chat_template_sha256=hashlib.sha256(template.encode()).hexdigest() if template else "",
    )


def _chat_template(folder: pathlib.Path) -> str:
    """From its own file, else from the tokenizer's configuration."""
    path = folder / "chat_template.jinja"
    template: Any = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not template and (folder / "tokenizer_config.json").is_file():
        template = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    return template if isinstance(template, str) else ""


def _read_tensors(path: pathlib.Path) -> dict[str, Tensor]:
    """All tensors in the order of their data, which fills the rest of the file. SafetensorError."""
    with safe_open(path, framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.offset_keys()}
        return {name: Tensor(one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}


def check_manifest(revision: AdapterRevision, manifest: Manifest, *, size_bytes: int, max_bytes: int) -> None:
    """Which files, and how large, before anything is fetched. AdapterFileForbiddenError, AdapterTooLargeError."""
    for path in manifest.files:
        if pathlib.PurePosixPath(path).suffix not in HARMLESS_SUFFIXES:
            raise AdapterFileForbiddenError(
                f"{revision.name}: it holds {path!r}; only {', '.join(sorted(HARMLESS_SUFFIXES))} are served, "
                "save the weights as safetensors",
                metadata=_metadata(revision, path=path),
            )
    if missing := {WEIGHTS, CONFIG} - manifest.files.keys():
        raise _invalid(revision, f"it lacks {', '.join(sorted(missing))}", missing=",".join(sorted(missing)))
    if size_bytes > max_bytes:
        raise AdapterTooLargeError(
            f"{revision.name}: it has {size_bytes} bytes, more than the limit of {max_bytes}; train with a "
            "lower rank or fewer target modules, or raise LUTHIER_INFERENCE_MAX_ADAPTER_BYTES",
            metadata=_metadata(revision, size_bytes=str(size_bytes), limit=str(max_bytes)),
        )


def check_files(revision: AdapterRevision, folder: pathlib.Path, base: BaseFacts, *, max_rank: int) -> None:
    """Lineage, configuration and weights. AdapterInvalidError or a subclass."""
    _check_lineage(revision, folder / LINEAGE, base)
    _check_config(revision, folder / CONFIG, max_rank)
    _check_weights(revision, folder / WEIGHTS, base, max_rank)


def _check_lineage(revision: AdapterRevision, path: pathlib.Path, base: BaseFacts) -> None:
    """The training's base model, tokenizer and chat template are those of the engine. Without lineage: unchecked."""
    if not path.is_file():
        return
    held = {
        "sha256": ("base model", revision.base_model.sha256),
        "tokenizer_sha256": ("tokenizer", base.tokenizer_sha256),
        "chat_template_sha256": ("chat template", base.chat_template_sha256),
    }
    try:
        recorded = json.loads(path.read_text())["base_model"]
        found = {key: str(recorded[key]) for key in held}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _invalid(revision, f"{LINEAGE} cannot be read ({error})") from error
    for key, (what, digest) in held.items():
        if found[key] != digest:
            raise AdapterOtherBaseError(
                f"{revision.name}: it was trained with the {what} {found[key][:12]}, but {revision.base_model.name} "
                f"has {digest[:12] or 'none'}; train it again on this base model",
                metadata=_metadata(revision, what=what, trained_with=found[key], held=digest),
            )


def _check_config(revision: AdapterRevision, path: pathlib.Path, max_rank: int) -> None:
    try:
        config = json.loads(path.read_text())
        kind, rank = str(config["peft_type"]), int(config["r"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _invalid(revision, f"{CONFIG} cannot be read ({error})") from error
    if kind != "LORA":
        raise _invalid(revision, f"its kind is {kind}; only LORA is served", peft_type=kind)
    if not 1 <= rank <= max_rank:
        raise _rank_too_large(revision, f"rank {rank}", rank, max_rank)
    for option in ("use_dora", "modules_to_save", "trainable_token_indices"):
        if config.get(option):
            raise _invalid(revision, f"it uses {option}, which this engine cannot serve", option=option)


def _check_weights(revision: AdapterRevision, path: pathlib.Path, base: BaseFacts, max_rank: int) -> None:
    try:
        tensors = _read_tensors(path)
    except SafetensorError as error:
        if not any(text in str(error) for text in TRUNCATED):
            raise _invalid(revision, f"{path.name} cannot be read ({error})", file=path.name) from error
        raise AdapterTruncatedError(
            f"{revision.name}: {path.name} is incomplete ({error}); store it again from a complete copy, or train it "
            "again",
            metadata=_metadata(revision, file=path.name),
        ) from error
    if not tensors:
        raise _invalid(revision, f"{WEIGHTS} holds no tensors")
    for name, tensor in tensors.items():
        _check_tensor(revision, name, tensor, base=base, max_rank=max_rank)
    _check_finite(revision, tensors, path)


def _check_tensor(revision: AdapterRevision, name: str, tensor: Tensor, *, base: BaseFacts, max_rank: int) -> None:
    shape = list(tensor.shape)
    if tensor.dtype not in EXPONENT_BITS:
        problem = f"tensor {name} has the type {tensor.dtype}; only {', '.join(EXPONENT_BITS)} are served"
        raise _invalid(revision, problem, tensor=name)
    parts = LORA_TENSOR.fullmatch(name)
    if parts is None or len(shape) != 2:
        raise _invalid(revision, f"tensor {name} is no LoRA matrix", tensor=name)
    is_down = parts["half"] == "A"
    rank, width = shape if is_down else reversed(shape)
    if rank > max_rank:
        raise _rank_too_large(revision, f"tensor {name} of shape {shape}", rank, max_rank)
    module = parts["module"]
    base_shape = base.shapes.get(module)
    if base_shape is None:
        raise AdapterModuleUnknownError(
            f"{revision.name}: {revision.base_model.name} has no module {module}, which tensor {name} is for; "
            "was it trained on this base model?",
            metadata=_metadata(revision, module=module, tensor=name),
        )
    outputs_first = parts["embedding"] is None
    if len(base_shape) == 2 and width != base_shape[1 if is_down == outputs_first else 0]:
        raise AdapterModuleUnknownError(
            f"{revision.name}: tensor {name} of shape {shape} does not fit the module {module} of shape "
            f"{list(base_shape)} of {revision.base_model.name}; was it trained on this base model?",
            metadata=_metadata(revision, module=module, tensor=name),
        )


def _check_finite(revision: AdapterRevision, tensors: Mapping[str, Tensor], path: pathlib.Path) -> None:
    """Reads one tensor after the other: numpy has no bfloat16, and torch is not loaded in the server's process."""
    counts = {name: math.prod(tensor.shape) for name, tensor in tensors.items()}
    kinds = {name: EXPONENT_BITS[tensor.dtype] for name, tensor in tensors.items()}
    size_bytes = sum(counts[name] * np.dtype(kind).itemsize for name, (kind, _) in kinds.items())
    with path.open("rb") as file:
        file.seek(-size_bytes, os.SEEK_END)
        for name, (kind, mask) in kinds.items():
            if np.any((np.fromfile(file, dtype=kind, count=counts[name]) & mask) == mask):
                raise AdapterNotFiniteError(
                    f"{revision.name}: tensor {name} holds numbers that are not finite; its training diverged, train "
                    "it again with a lower learning rate",
                    metadata=_metadata(revision, tensor=name),
                )


def _rank_too_large(revision: AdapterRevision, what: str, rank: int, limit: int) -> AdapterRankTooLargeError:
    return AdapterRankTooLargeError(
        f"{revision.name}: {what} exceeds the rank limit of {limit}; train with a lower rank, or raise "
        "LUTHIER_INFERENCE_MAX_LORA_RANK",
        metadata=_metadata(revision, rank=str(rank), limit=str(limit)),
    )


def _invalid(revision: AdapterRevision, problem: str, **metadata: str) -> AdapterInvalidError:
    return AdapterInvalidError(f"{revision.name}: {problem}", metadata=_metadata(revision, **metadata))


def _metadata(revision: AdapterRevision, **metadata: str) -> dict[str, str]:
    return {"adapter_revision": revision.name, **metadata}
