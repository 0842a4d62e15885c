"""The arithmetic of many adapters in one batch. Uses torch, not vLLM.

Each row is computed only with its own adapter: long runs of rows (prompts) by matrix products on views, the others
(decoding) by the compiled kernel or, without it, by one masked product with all their adapters side by side.

Axes: T rows (tokens), N rows of the groups, I inputs, O outputs of one slice, R ranks, S slots. vLLM stores a module's
adapters in tensors ``a_S1RI`` and ``b_S1OR``, one pair per output slice (q, k and v are three slices of one module),
filled with zeros where a slot is empty or an adapter's rank is below the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from luthierd.inference.engine.vllm_cpu_lora.kernel import Kernel, KernelModule, KernelRows
from luthierd.inference.engine.vllm_cpu_lora.rows import RowSlots

MAX_KNOWN_BATCHES = 256
"""Cached group ranks per module: batches that only decode recur at every step, those with prompts hardly ever."""


class _GroupRanks:
    """Ranks as int32 [slice, group] in memory, at `address`."""

    def __init__(self, by_group: Sequence[tuple[int, ...]]) -> None:
        self._values = np.ascontiguousarray(np.array(by_group, dtype=np.int32).T)
        self.address: int = self._values.ctypes.data


@dataclass(frozen=True)
class _Packed:
    """Adapters of one slice side by side, cut to their actual ranks. `owners_R`: the slot of each packed column."""

    a_IR: Tensor
    b_RO: Tensor
    owners_R: Tensor


@dataclass(kw_only=True)
class _Module:
    """One module's weights, and what was derived from them since vLLM last wrote to a slot. `widths`: of its slices."""

    a: tuple[Tensor, ...]
    b: tuple[Tensor, ...]
    widths: tuple[int, ...]
    for_kernel: KernelModule | None
    versions: tuple[int, ...] = ()
    ranks: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """By slot: each slice's actual rank, 0 for an empty one."""
    group_ranks: dict[tuple[int, ...], _GroupRanks] = field(default_factory=dict)
    """By the slots of a step's groups, for the kernel."""
    packed: dict[tuple[int, ...], list[_Packed]] = field(default_factory=dict)
    """By slots, without the kernel: each slice's adapters side by side."""


class Adapters:
    """Adds each row's own adapter. What it derives from weights is discarded when vLLM writes to a slot.

    A write is detected by ``tensor._version``, which every in-place copy to any view of the tensor increases.
    """

    def __init__(self, kernel: Kernel | None) -> None:
        self._kernel = kernel
        self._modules: dict[int, _Module] = {}
        self._kernel_rows: tuple[RowSlots | None, KernelRows | None] = (None, None)

    def add(
        self,
        y_TO: Tensor,
        x_TI: Tensor,
        *,
        a: Sequence[Tensor],
        b: Sequence[Tensor],
        rows: RowSlots,
        widths: Sequence[int],
        scale: float = 1.0,
    ) -> None:
        """Adds ``scale * x A^T B^T`` of each row's own adapter to `y_TO`, in place.

        Rows of `BASE_SLOT` keep their values exactly. Rows beyond ``len(rows)`` are padding and stay unchanged.
        `widths` are the output slices' sizes, from column 0.
        """
        if not rows.active:
            return
        if x_TI.shape[0] < len(rows):
            rows = RowSlots(rows.slots_T[: x_TI.shape[0]])
        module = self._fresh(a, b, widths)
        for run in rows.long_runs:
            self._add_run(y_TO[run.begin : run.end], x_TI[run.begin : run.end], module, run.slot, scale)
        if not rows.groups:
            return
        if module.for_kernel is not None and _is_plain(x_TI, module) and _is_plain(y_TO, module):
            self._add_groups(y_TO, x_TI, module, rows, scale)
        else:
            self._add_packed(y_TO, x_TI, module, rows, scale)

    def _fresh(self, a: Sequence[Tensor], b: Sequence[Tensor], widths: Sequence[int]) -> _Module:
        module = self._modules.get(id(a[0]))
        if module is None:
            takes = self._kernel is not None and KernelModule.takes(a, b)
            for_kernel = KernelModule(a, b, widths) if takes else None
            module = _Module(a=tuple(a), b=tuple(b), widths=tuple(widths), for_kernel=for_kernel)
            self._modules[id(a[0])] = module  # keeps the tensors alive, so that their ids are not reused
        versions = tuple([tensor._version for tensor in module.a])
        if versions != module.versions:
            module.versions = versions
            module.ranks.clear()
            module.group_ranks.clear()
            module.packed.clear()
        return module

    def _ranks(self, module: _Module, slot: int) -> tuple[int, ...]:
        if slot not in module.ranks:
            if self._kernel is not None and module.for_kernel is not None:
                module.ranks[slot] = tuple(self._kernel.rank(a_S1RI, slot) for a_S1RI in module.a)
            else:
                module.ranks[slot] = tuple(_rank(a_S1RI, slot) for a_S1RI in module.a)
        return module.ranks[slot]

    def _add_run(self, y_TO: Tensor, x_TI: Tensor, module: _Module, slot: int, scale: float) -> None:
        """All rows use `slot`: matrix products on vLLM's own tensors."""
        left, ranks = 0, self._ranks(module, slot)
        for rank, a_S1RI, b_S1OR, width in zip(ranks, module.a, module.b, module.widths, strict=True):
            if rank:
                hidden_TR = x_TI.to(a_S1RI.dtype) @ _matrix(a_S1RI, slot)[:rank].T
                _expand(y_TO[:, left : left + width], hidden_TR, _matrix(b_S1OR, slot)[:, :rank].T, scale)
            left += width

    def _add_groups(self, y_TO: Tensor, x_TI: Tensor, module: _Module, rows: RowSlots, scale: float) -> None:
        assert self._kernel is not None
        assert module.for_kernel is not None
        known, step = self._kernel_rows
        if known is not rows or step is None:
            step = KernelRows(rows.groups)
            self._kernel_rows = (rows, step)
        ranks = module.group_ranks.get(rows.group_slots)
        if ranks is None:
            by_group = [self._ranks(module, slot) for slot in rows.group_slots]
            if len(module.group_ranks) >= MAX_KNOWN_BATCHES:
                module.group_ranks.clear()
            ranks = module.group_ranks[rows.group_slots] = _GroupRanks(by_group)
        self._kernel.add(module.for_kernel, step, ranks.address, x_TI=x_TI, y_TO=y_TO, scale=scale)

    def _add_packed(self, y_TO: Tensor, x_TI: Tensor, module: _Module, rows: RowSlots, scale: float) -> None:
        """One product with all groups' adapters side by side, of which each row keeps its own adapter's columns."""
        index_N = rows.group_rows
        slots_N1, x_NI = rows.slots_T[index_N, None], x_TI[index_N].to(module.a[0].dtype)
        left, slices = 0, self._packed(module, tuple(sorted(set(rows.group_slots))))
        for width, packed in zip(module.widths, slices, strict=True):
            hidden_NR = (x_NI @ packed.a_IR).masked_fill_(slots_N1 != packed.owners_R, 0.0)
            columns_NO = y_TO[index_N, left : left + width]
            _expand(columns_NO, hidden_NR, packed.b_RO, scale)
            y_TO[index_N, left : left + width] = columns_NO
            left += width

    def _packed(self, module: _Module, slots: tuple[int, ...]) -> list[_Packed]:
        """The slots' adapters side by side, slice by slice."""
        if slots not in module.packed:
            module.packed.clear()  # older batches do not recur
            module.packed[slots] = [
                _pack([(slot, self._ranks(module, slot)[index]) for slot in slots], a_S1RI, b_S1OR)
                for index, (a_S1RI, b_S1OR) in enumerate(zip(module.a, module.b, strict=True))
            ]
        return module.packed[slots]


def _pack(ranks: Sequence[tuple[int, int]], a_S1RI: Tensor, b_S1OR: Tensor) -> _Packed:
    """`ranks`: slot and rank of each adapter."""
    a_RI = torch.cat([_matrix(a_S1RI, slot)[:rank] for slot, rank in ranks])
    b_RO = torch.cat([_matrix(b_S1OR, slot)[:, :rank].T for slot, rank in ranks])
    return _Packed(a_RI.T, b_RO, torch.tensor([slot for slot, rank in ranks for _ in range(rank)]))


def _is_plain(tensor: Tensor, module: _Module) -> bool:
    """In the kernel's data type, with contiguous rows."""
    return bool(tensor.dtype == module.a[0].dtype and tensor.stride(1) == 1)


def _expand(y_TO: Tensor, hidden_TR: Tensor, b_RO: Tensor, scale: float) -> None:
    width = min(y_TO.shape[1], b_RO.shape[1])  # the model and the adapter may pad outputs differently
    if y_TO.dtype == hidden_TR.dtype:
        y_TO[:, :width].addmm_(hidden_TR, b_RO[:, :width], alpha=scale)
    else:  # for example bfloat16 logits over float32 weights
        y_TO[:, :width] += ((hidden_TR @ b_RO[:, :width]) * scale).to(y_TO.dtype)


def _matrix(stacked: Tensor, slot: int) -> Tensor:
    """One slot's matrix, without vLLM's axis of size 1."""
    matrix = stacked[slot]
    return matrix[0] if matrix.dim() == 3 else matrix


def _rank(a_S1RI: Tensor, slot: int) -> int:
    """Rows of the slot's A up to the last with a nonzero value."""
    used_R = _matrix(a_S1RI, slot).ne(0).any(dim=-1)
    return int((used_R * torch.arange(1, used_R.shape[0] + 1)).amax())
