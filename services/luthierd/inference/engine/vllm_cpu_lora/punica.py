"""The class that vLLM's LoRA layers call on a CPU; it uses `adapters`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from luthierd.inference.engine.vllm_cpu_lora.adapters import Adapters
from luthierd.inference.engine.vllm_cpu_lora.kernel import load_kernel
from luthierd.inference.engine.vllm_cpu_lora.rows import RowSlots


class LuthierPunicaWrapper(PunicaWrapperCPU):
    """Applies to each row its own adapter; rows without one keep exactly the base model's values.

    Overrides what vLLM calls for linear layers, logits and embeddings; its metadata is unchanged. Full linear weights
    (classification heads) are left to stock code, which handles rows without an adapter.
    """

    def __init__(self, max_num_batched_tokens: int, max_batches: int, device: Any, **kwargs: Any) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device, **kwargs)
        self._adapters = Adapters(load_kernel())
        self._token_rows = self._sampler_rows = RowSlots(torch.empty(0, dtype=torch.long))

    def update_metadata(
        self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self._token_rows = RowSlots(self.token_lora_indices)
        self._sampler_rows = RowSlots(self.sampler_indices)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        self._adapters.add(
            y.view(-1, y.shape[-1]),
            x.view(-1, x.shape[-1]),
            a=lora_a_stacked,
            b=lora_b_stacked,
            rows=self._token_rows,
            widths=output_slices,
            scale=scale,
        )

    def add_lora_logits(
        self, y: Tensor, x: Tensor, lora_a_stacked: Tensor, lora_b_stacked: Tensor, scale: float, **kwargs: Any
    ) -> None:
        y = y.view(-1, y.shape[-1])
        self._adapters.add(
            y,
            x.view(-1, x.shape[-1]),
            a=(lora_a_stacked,),
            b=(lora_b_stacked,),
            rows=self._sampler_rows,
            widths=(y.shape[-1],),
            scale=scale,
        )

    def add_lora_embedding(
        self, y: Tensor, x: Tensor, lora_b_stacked: Tensor, add_inputs: bool = True, **kwargs: Any
    ) -> None:
        """`x` holds rows of A that vLLM looked up (of slot 0 for rows without an adapter, which are masked here)."""
        rows = self._token_rows
        for slot in rows.active:
            owned_T1 = (rows.slots_T == slot)[: x.shape[0], None]
            delta = x[: owned_T1.shape[0]].masked_fill(~owned_T1, 0.0) @ lora_b_stacked[slot, 0].T
            y[: owned_T1.shape[0]] += delta.to(y.dtype)
