"""The arithmetic of many adapters in one batch: stacked, masked products. Knows torch, not vLLM.

Axes: T rows (tokens), I inputs, O outputs of one slice, R ranks of the packed adapters, S slots. vLLM keeps a module's
adapters in tensors ``a_S1RI`` and ``b_S1OR``, one pair per output slice (q, k and v are three slices of one module),
filled with zeros where a slot is empty or an adapter's rank is below the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

BASE_SLOT = -1  # vLLM's mark of a row without an adapter
Segments = tuple[tuple[int, int], ...]  # (slot, rank) of each run of packed columns


class RowSlots:
    """Which slot each row of this step uses, with the masks derived from it. Made anew for every step."""

    def __init__(self, slots_T: Tensor) -> None:
        self.slots_T = slots_T
        self.active = tuple(slot for slot in torch.unique(slots_T).tolist() if slot != BASE_SLOT)
        self.single = len(self.active) == 1 and bool((slots_T == self.active[0]).all()) if self.active else False
        self._masks: dict[Segments, Tensor] = {}

    def __len__(self) -> int:
        return int(self.slots_T.shape[0])

    def foreign_TR(self, segments: Segments) -> Tensor:
        """True where a packed column belongs to another slot than the row's."""
        mask = self._masks.get(segments)
        if mask is None:
            owners_R = torch.tensor([slot for slot, rank in segments for _ in range(rank)], dtype=self.slots_T.dtype)
            mask = self.slots_T[:, None] != owners_R[None, :]
            self._masks[segments] = mask
        return mask


@dataclass
class _Packed:
    """Adapters of `slots`, cut to their real ranks and laid side by side; slice by slice, then slot by slot."""

    versions: tuple[int, ...]
    slots: tuple[int, ...]
    segments: Segments
    a_RI: Tensor
    b_RO: tuple[Tensor, ...]


@dataclass
class _Module:
    """One module's cache. `sources` keeps vLLM's tensors alive, so that their ids are not used again."""

    sources: tuple[Tensor, ...]
    ranks: tuple[tuple[int, ...], ...] = ()
    versions: tuple[int, ...] = ()
    packed: _Packed | None = None


@dataclass
class StackedAdapters:
    """Applies adapters to rows, with packed weights cached per module until vLLM writes into a slot.

    A write is seen by ``tensor._version``, which every in-place copy into any view of the tensor increases.
    """

    _modules: dict[int, _Module] = field(default_factory=dict)

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

        Rows of `BASE_SLOT` keep their values exactly. Rows beyond ``len(rows)`` are padding and are left alone.
        `widths` are the output slices' sizes, from column 0.
        """
        if not rows.active:
            return
        module = self._fresh(a, b)
        count = min(len(rows), x_TI.shape[0])
        y_TO, x_TI = y_TO[:count], x_TI[:count].to(a[0].dtype)
        if rows.single:
            _add_one(y_TO, x_TI, module, slot=rows.active[0], a=a, b=b, widths=widths, scale=scale)
            return
        packed = self._pack(module, a, b, rows.active)
        if not packed.segments:
            return
        hidden_TR = (x_TI @ packed.a_RI.T).masked_fill_(rows.foreign_TR(packed.segments)[:count], 0.0)
        column, left = 0, 0
        for b_RO, width in zip(packed.b_RO, widths, strict=True):
            if b_RO.shape[0]:
                _expand(y_TO[:, left : left + width], hidden_TR[:, column : column + b_RO.shape[0]], b_RO, scale)
            column, left = column + b_RO.shape[0], left + width

    def _fresh(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> _Module:
        module = self._modules.get(id(a[0]))
        if module is None:
            module = self._modules[id(a[0])] = _Module(sources=(*a, *b))
        versions = tuple(tensor._version for tensor in module.sources)
        if versions != module.versions:
            module.ranks = tuple(_ranks(stacked) for stacked in a)
            module.versions, module.packed = versions, None
        return module

    def _pack(self, module: _Module, a: Sequence[Tensor], b: Sequence[Tensor], active: tuple[int, ...]) -> _Packed:
        packed = module.packed
        if packed is not None and set(active) <= set(packed.slots):
            return packed
        slots = tuple(sorted(set(active) | set(packed.slots if packed else ())))
        kept = [[(slot, ranks[slot]) for slot in slots if ranks[slot]] for ranks in module.ranks]
        segments = tuple(pair for pairs in kept for pair in pairs)
        a_rows = [_a(stacked, slot)[:rank] for stacked, pairs in zip(a, kept, strict=True) for slot, rank in pairs]
        module.packed = _Packed(
            versions=module.versions,
            slots=slots,
            segments=segments,
            a_RI=torch.cat(a_rows) if a_rows else a[0].new_zeros((0, a[0].shape[-1])),
            b_RO=tuple(_pack_b(stacked, pairs) for stacked, pairs in zip(b, kept, strict=True)),
        )
        return module.packed


def _add_one(
    y_TO: Tensor,
    x_TI: Tensor,
    module: _Module,
    *,
    slot: int,
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    widths: Sequence[int],
    scale: float,
) -> None:
    """Every row uses `slot`: plain products on vLLM's own tensors, nothing packed."""
    left = 0
    for ranks, stacked_a, stacked_b, width in zip(module.ranks, a, b, widths, strict=True):
        if rank := ranks[slot]:
            hidden_TR = x_TI @ _a(stacked_a, slot)[:rank].T
            _expand(y_TO[:, left : left + width], hidden_TR, _a(stacked_b, slot)[:, :rank].T, scale)
        left += width


def _expand(y_TO: Tensor, hidden_TR: Tensor, b_RO: Tensor, scale: float) -> None:
    width = min(y_TO.shape[1], b_RO.shape[1])  # the model and the adapter may pad outputs differently
    if y_TO.dtype == hidden_TR.dtype:
        y_TO[:, :width].addmm_(hidden_TR, b_RO[:, :width], alpha=scale)
    else:  # for example float32 logits over bfloat16 weights
        y_TO[:, :width] += (hidden_TR @ b_RO[:, :width]).to(y_TO.dtype) * scale


def _pack_b(stacked: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    if not pairs:
        return stacked.new_zeros((0, stacked.shape[-2]))
    return torch.cat([_a(stacked, slot)[:, :rank].T for slot, rank in pairs]).contiguous()


def _a(stacked: Tensor, slot: int) -> Tensor:
    """One slot's matrix, without vLLM's axis of size 1."""
    matrix = stacked[slot]
    return matrix[0] if matrix.dim() == 3 else matrix


def _ranks(stacked_a: Tensor) -> tuple[int, ...]:
    """Each slot's real rank: rows of A up to its last one that holds anything; 0 for an empty slot."""
    used_SR = (stacked_a.flatten(0, 1) if stacked_a.dim() == 4 else stacked_a).ne(0).any(dim=-1)
    last_S = (used_SR * torch.arange(1, used_SR.shape[1] + 1)).amax(dim=1)
    return tuple(last_S.tolist())
