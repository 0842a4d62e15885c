"""Loads a base model for training; computes logits only where there are labels.

Axes: B rows, T positions, D model width, N labelled positions of all rows, V vocabulary.
"""

from __future__ import annotations

import ctypes
import pathlib
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthierd.errors import InvalidArgumentError
from luthierd.trainer.blocks.encoding import IGNORED, Batch
from luthierd.trainer.blocks.rms_norm import use_fused_rms_norm

EAGER_ATTENTION_MAX_TOKENS = 256
"""Below this length eager attention is faster on a CPU than the fused kernel, whose backward pass is slow."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT_BYTES = 2**31 - 1


class UnsupportedArchitectureError(InvalidArgumentError):
    """The model changes its logits after the output head."""

    reason = "UNSUPPORTED_ARCHITECTURE"


def resolve_dtype(wanted: str) -> torch.dtype:
    """`auto`: bfloat16 where the hardware computes in it; elsewhere it would be emulated, slower than float32."""
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8").split() if cpuinfo.exists() else []
    return torch.bfloat16 if {"avx512_bf16", "amx_bf16"} & set(flags) else torch.float32


def device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> None:
    """Tells glibc to reuse large freed blocks instead of returning them to the system.

    A training step allocates and frees the same activations over and over; mapping their pages each time took a quarter
    of the time (204 -> 253 tok/s on 2 cores, batch 8). Does nothing without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(M_TOP_PAD, 64 * 1024 * 1024)


def load_tokenizer(folder: pathlib.Path) -> Any:
    """The tokenizer with its chat template."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def load_model(folder: pathlib.Path, *, dtype: torch.dtype, longest_row_tokens: int) -> Any:
    """The model on a GPU if there is one. UnsupportedArchitectureError if `labelled_logits` would be wrong on it."""
    where = device()
    short = where.type == "cpu" and longest_row_tokens <= EAGER_ATTENTION_MAX_TOKENS
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation="eager" if short else "sdpa",
        local_files_only=True,
        use_safetensors=True,
    ).to(where)
    use_fused_rms_norm(model)
    _check_logits(model)
    return model


def load_peft(model: Any, folder: pathlib.Path) -> Any:
    """`model` with the adapter in `folder` as PEFT applies it."""
    return peft.PeftModel.from_pretrained(model, str(folder), local_files_only=True).eval()


def labelled_logits(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, V] of the labelled positions, and their labels [N].

    The output head is applied to these positions only: with a vocabulary of 49,152 and a quarter of the tokens
    labelled, the head would otherwise cost as much as seven layers.
    """
    labels_BT = batch.labels_BT[:, 1:].to(model.device)
    hidden_BTD = hidden_states(model, batch)[:, :-1]
    is_labelled_BT = labels_BT != IGNORED
    return model.get_output_embeddings()(hidden_BTD[is_labelled_BT]), labels_BT[is_labelled_BT]


def hidden_states(model: Any, batch: Batch) -> torch.Tensor:
    """The last layer's output, [B, T, D]."""
    output = model.base_model(
        input_ids=batch.token_ids_BT.to(model.device),
        attention_mask=batch.attention_mask_BT.to(model.device),
        use_cache=False,
    )
    hidden: torch.Tensor = output.last_hidden_state
    return hidden


@torch.no_grad()
def _check_logits(model: Any) -> None:
    """Some architectures scale or cap their logits after the head; on those our loss would be wrong."""
    token_ids_BT = torch.arange(1, 9, device=model.device)[None] % model.config.vocab_size
    expected_BTV = model(input_ids=token_ids_BT, use_cache=False).logits.float()
    hidden_BTD = model.base_model(input_ids=token_ids_BT, use_cache=False).last_hidden_state
    got_BTV = model.get_output_embeddings()(hidden_BTD).float()
    if not torch.allclose(expected_BTV, got_BTV, rtol=1e-2, atol=1e-2):
        kind = type(model).__name__
        raise UnsupportedArchitectureError(
            f"{kind} changes its logits after the output head, which is not supported; choose another base model",
            metadata={"architecture": kind},
        )
