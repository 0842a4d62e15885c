"""An adapter from elsewhere becomes one of ours: from the files that were written to the digest of a revision.

Nothing of the files is executed. The references come from PEFT itself, so that a server that loads the adapter in
another way is refused.
"""

from __future__ import annotations

import json
import math
import pathlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from luthierd.storage.blobs import BlobStore, verify_file
from luthierd.storage.manifests import checkout, put_folder, read_manifest
from luthierd.trainer.artifacts import export_imported
from luthierd.trainer.base_model_files import chat_template
from luthierd.trainer.blocks.model import load_model, load_peft, load_tokenizer, resolve_dtype
from luthierd.trainer.blocks.peft_adapter import read_peft_adapter
from luthierd.trainer.blocks.peft_config import parse_config
from luthierd.trainer.config import TrainerConfig
from luthierd.trainer.domain.adapter_import import (
    CHAT_TEMPLATE,
    CONFIG,
    TOKENIZER_CONFIG,
    WEIGHTS,
    AdapterImportTask,
    AdapterInvalidError,
    AdapterNotFiniteError,
)
from luthierd.trainer.references import Reference, reference_rows

MAX_TEXT_BYTES = 16 * 1024 * 1024
"""Of a file that is read as a whole; a tokenizer's configuration can list a thousand tokens."""

MAX_FLOAT32_PARAMETERS = 4_000_000_000
"""Larger models are loaded in the type that training would choose. An engine in float32 is compared exactly only with
references in float32.
"""

MIN_EFFECT_NATS = 1e-3
"""A deployment refuses an adapter with less (ADAPTER_HAS_NO_EFFECT)."""

PROMPTS = ("What is the capital of France?", "def mean(values):", "请用一句话介绍你自己。")
"""What references are computed for: an import has no rows."""


@dataclass(frozen=True, kw_only=True)
class ImportedAdapter:
    """An adapter in the blob store."""

    sha256: str
    size_bytes: int
    rank: int
    target_modules: tuple[str, ...]
    notes: tuple[str, ...]


def import_adapter(
    task: AdapterImportTask, *, name: str, blobs: BlobStore, config: TrainerConfig, begin: Callable[[str], None]
) -> ImportedAdapter:
    """`begin` is told of every step, and may raise to stop. The errors of the blocks, and of the blob store."""
    begin("checking the configuration")
    options = parse_config(_text(blobs, task, CONFIG))
    begin("fetching the base model")
    base_folder = config.scratch / "base_models" / task.base_model_info.sha256
    checkout(blobs, task.base_model_info.sha256, base_folder)
    begin("loading the base model")
    dtype = resolve_dtype("float32" if task.base_model_info.parameter_count <= MAX_FLOAT32_PARAMETERS else "auto")
    model = load_model(base_folder, dtype=dtype, longest_row_tokens=1)
    begin("checking the weights")
    weights = blobs.local_path(task.files[WEIGHTS])
    verify_file(weights, task.files[WEIGHTS])
    adapter = read_peft_adapter(options, weights, model=model, base_folder=base_folder, max_rank=config.max_lora_rank)
    folder = config.scratch / name
    shutil.rmtree(folder, ignore_errors=True)
    adapter.save(folder, model=model, base_model=task.base_model)
    begin("computing references with PEFT")
    tokenizer = load_tokenizer(base_folder)
    prompts = [
        list(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
            )
        )
        for text in PROMPTS
    ]
    tuned = load_peft(model, folder)
    references = reference_rows(tuned, prompts, without_adapter=tuned.disable_adapter)
    notes = (*adapter.notes, *_template_note(blobs, task, base_folder), *_effect_note(references))
    export_imported(
        folder,
        task=task,
        adapter_import=name,
        dtype=str(dtype).removeprefix("torch."),
        rank=adapter.rank,
        target_modules=adapter.target_modules,
        notes=notes,
        references=references,
    )
    begin("storing the revision")
    manifest = put_folder(blobs, folder)
    return ImportedAdapter(
        sha256=manifest.sha256,
        size_bytes=read_manifest(blobs, manifest.sha256).size_bytes,
        rank=adapter.rank,
        target_modules=adapter.target_modules,
        notes=notes,
    )


def _effect_note(references: Sequence[Reference]) -> list[str]:
    """A sentence if no deployment will accept the adapter. AdapterNotFiniteError if it computes no numbers."""
    pairs = [pair for one in references for pair in zip(one.base_logprobs, one.tuned_logprobs, strict=True)]
    effect_nats = max((abs(base - tuned) for base, tuned in pairs), default=0.0)
    if not all(math.isfinite(tuned) for _, tuned in pairs):
        raise AdapterNotFiniteError("with the adapter the model computes no finite numbers; look at lora_alpha")
    if effect_nats >= MIN_EFFECT_NATS:
        return []
    return [f"the adapter changes log-probabilities by {effect_nats:.1e} nats at most: no deployment will accept it"]


def _text(blobs: BlobStore, task: AdapterImportTask, path: str) -> bytes:
    sha256 = task.files[path]
    if blobs.size_bytes(sha256) > MAX_TEXT_BYTES:
        raise AdapterInvalidError(f"{path} is larger than {MAX_TEXT_BYTES} bytes", metadata={"path": path})
    return blobs.read_bytes(sha256)


def _template_note(blobs: BlobStore, task: AdapterImportTask, base_folder: pathlib.Path) -> list[str]:
    """A sentence if the adapter was saved with another chat template: it is served with the base model's."""
    saved = ""
    if CHAT_TEMPLATE in task.files:
        saved = _text(blobs, task, CHAT_TEMPLATE).decode(errors="replace")
    elif TOKENIZER_CONFIG in task.files:
        saved = _template_in(_text(blobs, task, TOKENIZER_CONFIG))
    if not saved or saved.strip() == chat_template(base_folder).strip():
        return []
    return [
        "its chat template differs from the base model's, with which it is served; if it was trained with its own, "
        "import the base model with that template under another name"
    ]


def _template_in(tokenizer_config: bytes) -> str:
    try:
        found: Any = json.loads(tokenizer_config)
    except (ValueError, RecursionError):
        return ""
    template = found.get("chat_template") if isinstance(found, dict) else None
    return template if isinstance(template, str) else ""
