"""What an adapter's files must be before any engine reads them. Each refusal has a reason of its own."""

from __future__ import annotations

import json
import pathlib
import re

import numpy as np

from luthierd.inference.adapters.base_facts import BaseFacts
from luthierd.inference.adapters.safetensors_header import HeaderInvalidError, Tensor, TruncatedError, read_header
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

WEIGHTS, CONFIG, REFERENCE, LINEAGE = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "reference.json",
    "lineage.json",
)
HARMLESS_SUFFIXES = {".json", ".md", ".safetensors", ".txt"}
"""What an adapter may consist of. Pickles (`.bin`, `.pt`) run code when they are read."""

EXPONENT_BITS = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}
"""A number whose exponent bits are all set is infinite or none at all (IEEE 754)."""

LORA_TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<half>[AB])(\.weight)?"
)
"""As PEFT names them: A reads a module's input, B writes its output."""


def check_manifest(revision: AdapterRevision, manifest: Manifest, *, size_bytes: int, max_bytes: int) -> None:
    """Before anything is fetched: which files, and how large. AdapterFileForbiddenError, AdapterTooLargeError."""
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
    """Lineage, configuration, weights. AdapterInvalidError or one of its kinds."""
    _check_lineage(revision, folder / LINEAGE, base)
    _check_config(revision, folder / CONFIG, max_rank)
    _check_weights(revision, folder / WEIGHTS, base, max_rank)


def _check_lineage(revision: AdapterRevision, path: pathlib.Path, base: BaseFacts) -> None:
    """The base model, tokenizer and chat template of the training are those of the engine. No lineage: not checked."""
    if not path.is_file():
        return
    try:
        recorded = json.loads(path.read_text())["base_model"]
        found = {key: str(recorded[key]) for key in ("sha256", "tokenizer_sha256", "chat_template_sha256")}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _invalid(revision, f"{LINEAGE} cannot be read ({error})") from error
    held = {
        "sha256": revision.base_model.sha256,
        "tokenizer_sha256": base.tokenizer_sha256,
        "chat_template_sha256": base.chat_template_sha256,
    }
    what = {"sha256": "base model", "tokenizer_sha256": "tokenizer", "chat_template_sha256": "chat template"}
    for key, digest in found.items():
        if digest != held[key]:
            raise AdapterOtherBaseError(
                f"{revision.name}: it was trained with the {what[key]} {digest[:12]}, and {revision.base_model.name} "
                f"has {held[key][:12] or 'none'}; train it anew on this base model",
                metadata=_metadata(revision, what=what[key], trained_with=digest, held=held[key]),
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
        tensors = read_header(path)
    except TruncatedError as error:
        raise AdapterTruncatedError(
            f"{revision.name}: {error}; train it again, or store it again from a whole copy",
            metadata=_metadata(revision, file=path.name),
        ) from error
    except HeaderInvalidError as error:
        raise _invalid(revision, str(error), file=path.name) from error
    if not tensors:
        raise _invalid(revision, f"{WEIGHTS} holds no tensors")
    for name, tensor in tensors.items():
        _check_tensor(revision, name, tensor, base=base, max_rank=max_rank)
    for name, tensor in tensors.items():
        _check_finite(revision, name, tensor, path)


def _check_tensor(revision: AdapterRevision, name: str, tensor: Tensor, *, base: BaseFacts, max_rank: int) -> None:
    if tensor.dtype not in EXPONENT_BITS:
        raise _invalid(
            revision,
            f"tensor {name} has the type {tensor.dtype}; only {', '.join(EXPONENT_BITS)} are served",
            tensor=name,
        )
    parts = LORA_TENSOR.fullmatch(name)
    if parts is None or len(tensor.shape) != 2:
        raise _invalid(revision, f"tensor {name} is no LoRA matrix", tensor=name)
    is_down = parts["half"] == "A"
    rank, width = tensor.shape if is_down else reversed(tensor.shape)
    if rank > max_rank:
        raise _rank_too_large(revision, f"tensor {name} of shape {list(tensor.shape)}", rank, max_rank)
    module = parts["module"]
    if module not in base.shapes:
        raise AdapterModuleUnknownError(
            f"{revision.name}: {revision.base_model.name} has no module {module}, which tensor {name} is for; "
            "was it trained on this base model?",
            metadata=_metadata(revision, module=module, tensor=name),
        )
    shape = base.shapes[module]
    outputs_first = parts["embedding"] is None
    wanted = shape[1 if is_down == outputs_first else 0] if len(shape) == 2 else width
    if width != wanted:
        raise AdapterModuleUnknownError(
            f"{revision.name}: tensor {name} of shape {list(tensor.shape)} does not fit the module {module} of shape "
            f"{list(shape)} of {revision.base_model.name}; was it trained on this base model?",
            metadata=_metadata(revision, module=module, tensor=name),
        )


def _check_finite(revision: AdapterRevision, name: str, tensor: Tensor, path: pathlib.Path) -> None:
    kind, mask = EXPONENT_BITS[tensor.dtype]
    count = tensor.size_bytes // np.dtype(kind).itemsize
    bits = np.fromfile(path, dtype=kind, count=count, offset=tensor.offset_bytes)
    if np.any((bits & mask) == mask):
        raise AdapterNotFiniteError(
            f"{revision.name}: tensor {name} holds numbers that are not finite; its training diverged, train it again "
            "with a lower learning rate",
            metadata=_metadata(revision, tensor=name),
        )


def _rank_too_large(revision: AdapterRevision, what: str, rank: int, limit: int) -> AdapterRankTooLargeError:
    return AdapterRankTooLargeError(
        f"{revision.name}: {what} is beyond the rank limit of {limit}; train with a lower rank, or raise "
        "LUTHIER_INFERENCE_MAX_LORA_RANK",
        metadata=_metadata(revision, rank=str(rank), limit=str(limit)),
    )


def _invalid(revision: AdapterRevision, problem: str, **metadata: str) -> AdapterInvalidError:
    return AdapterInvalidError(f"{revision.name}: {problem}", metadata=_metadata(revision, **metadata))


def _metadata(revision: AdapterRevision, **metadata: str) -> dict[str, str]:
    return {"adapter_revision": revision.name, **metadata}
