"""Files of base models and adapters, fetched by digest; adapters are checked before any engine reads them."""

from __future__ import annotations

import asyncio
import json
import pathlib
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from luthierd.inference.domain import AdapterRevision, BaseModel, ReferenceRow
from luthierd.inference.errors import AdapterInvalidError
from luthierd.storage.blobs import BlobStore
from luthierd.storage.manifests import checkout, read_manifest

WEIGHTS, CONFIG, REFERENCE = "adapter_model.safetensors", "adapter_config.json", "reference.json"
HARMLESS_SUFFIXES = {".json", ".md", ".safetensors", ".txt"}
"""What an adapter may consist of. Pickles (`.bin`, `.pt`) run code when they are read."""

MAX_HEADER_BYTES = 16 * 1024 * 1024
EXPONENT_BITS = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}
"""A number whose exponent bits are all set is infinite or none at all (IEEE 754)."""


class Artifacts:
    """Lays artifacts out below `folder`, one folder for each digest."""

    def __init__(self, blobs: BlobStore, folder: pathlib.Path, *, max_adapter_bytes: int) -> None:
        self._blobs, self._folder = blobs, folder
        self._max_adapter_bytes = max_adapter_bytes

    async def base_model_folder(self, base_model: BaseModel) -> pathlib.Path:
        """The model's files, verified. BlobNotFoundError, BlobCorruptError, ManifestInvalidError."""
        folder = self._folder / "base_models" / base_model.sha256
        await asyncio.to_thread(checkout, self._blobs, base_model.sha256, folder)
        return folder

    async def adapter_folder(self, revision: AdapterRevision, *, max_rank: int) -> pathlib.Path:
        """The revision's files, verified and checked. AdapterInvalidError, and the blob store's errors."""
        return await asyncio.to_thread(self._adapter_folder, revision, max_rank)

    def _adapter_folder(self, revision: AdapterRevision, max_rank: int) -> pathlib.Path:
        manifest = read_manifest(self._blobs, revision.sha256)
        for path in manifest.files:
            if pathlib.PurePosixPath(path).suffix not in HARMLESS_SUFFIXES:
                raise _invalid(
                    revision, f"it holds {path!r}; only {', '.join(sorted(HARMLESS_SUFFIXES))} are served", path=path
                )
        if missing := {WEIGHTS, CONFIG} - manifest.files.keys():
            raise _invalid(revision, f"it lacks {', '.join(sorted(missing))}", missing=",".join(sorted(missing)))
        if manifest.size_bytes > self._max_adapter_bytes:
            raise _invalid(
                revision, f"it has {manifest.size_bytes} bytes, more than the limit of {self._max_adapter_bytes}",
                size_bytes=str(manifest.size_bytes), limit=str(self._max_adapter_bytes),
            )  # fmt: skip
        folder = self._folder / "adapters" / revision.sha256
        checkout(self._blobs, revision.sha256, folder)
        _check_config(revision, folder / CONFIG, max_rank)
        _check_weights(revision, folder / WEIGHTS, max_rank)
        return folder


def read_reference(folder: pathlib.Path) -> list[ReferenceRow]:
    """The log-probabilities that the training recorded; none if it recorded none or in a form that is not known."""
    try:
        content = json.loads((folder / REFERENCE).read_text())
        return [
            ReferenceRow(
                prompt_ids=tuple(map(int, row["prompt_ids"])),
                completion_ids=tuple(map(int, row["completion_ids"])),
                base_logprobs=tuple(map(float, row.get("base_logprobs", ()))),
                tuned_logprobs=tuple(map(float, row.get("tuned_logprobs", ()))),
            )
            for row in content["rows"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _check_config(revision: AdapterRevision, path: pathlib.Path, max_rank: int) -> None:
    try:
        config = json.loads(path.read_text())
        kind, rank = str(config["peft_type"]), int(config["r"])
    except (ValueError, KeyError, TypeError) as error:
        raise _invalid(revision, f"{CONFIG} cannot be read ({error})") from error
    if kind != "LORA":
        raise _invalid(revision, f"its kind is {kind}; only LORA is served", peft_type=kind)
    if not 1 <= rank <= max_rank:
        raise _invalid(
            revision, f"rank {rank} is beyond the limit of {max_rank}; train with a lower rank, or raise "
            "LUTHIER_INFERENCE_MAX_LORA_RANK", rank=str(rank), limit=str(max_rank),
        )  # fmt: skip
    for option in ("use_dora", "modules_to_save", "trainable_token_indices"):
        if config.get(option):
            raise _invalid(revision, f"it uses {option}, which this engine cannot serve", option=option)


def _check_weights(revision: AdapterRevision, path: pathlib.Path, max_rank: int) -> None:
    """Reads the header of a safetensors file by its specification, and the numbers for what is not finite."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < header_bytes <= min(MAX_HEADER_BYTES, size_bytes - 8):
            raise _invalid(revision, f"{WEIGHTS} is not a safetensors file")
        try:
            header: Mapping[str, Any] = json.loads(file.read(header_bytes))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            for name, entry in tensors.items():
                _check_tensor(revision, name, entry, max_rank=max_rank, data_bytes=size_bytes - 8 - header_bytes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _invalid(revision, f"the header of {WEIGHTS} cannot be read ({error})") from error
    if not tensors:
        raise _invalid(revision, f"{WEIGHTS} holds no tensors")
    for name, entry in tensors.items():
        begin, end = entry["data_offsets"]
        kind, mask = EXPONENT_BITS[entry["dtype"]]
        count = (end - begin) // np.dtype(kind).itemsize
        bits = np.fromfile(path, dtype=kind, count=count, offset=8 + header_bytes + begin)
        if np.any((bits & mask) == mask):
            raise _invalid(revision, f"tensor {name} holds numbers that are not finite", tensor=name)


def _check_tensor(
    revision: AdapterRevision, name: str, entry: Mapping[str, Any], *, max_rank: int, data_bytes: int
) -> None:
    begin, end = entry["data_offsets"]
    shape, dtype = [int(size) for size in entry["shape"]], entry["dtype"]
    if dtype not in EXPONENT_BITS:
        raise _invalid(
            revision, f"tensor {name} has the type {dtype}; only {', '.join(EXPONENT_BITS)} are served", tensor=name
        )
    width = np.dtype(EXPONENT_BITS[dtype][0]).itemsize
    if not 0 <= begin <= end <= data_bytes or end - begin != int(np.prod(shape)) * width:
        raise _invalid(revision, f"tensor {name} lies outside of {WEIGHTS}", tensor=name)
    is_down, is_up = ".lora_A." in name or "lora_embedding_A" in name, ".lora_B." in name or "lora_embedding_B" in name
    if not (is_down or is_up) or len(shape) != 2:
        raise _invalid(revision, f"tensor {name} is no LoRA matrix", tensor=name)
    if min(shape) > max_rank:
        raise _invalid(
            revision, f"tensor {name} of shape {shape} has a rank beyond the limit of {max_rank}", tensor=name
        )


def _invalid(revision: AdapterRevision, problem: str, **metadata: str) -> AdapterInvalidError:
    return AdapterInvalidError(f"{revision.name}: {problem}", metadata={"adapter_revision": revision.name, **metadata})
