"""From rows to padded tensors, in an order that only the seed and the step decide."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from luthierd.trainer.blocks.encoding import EncodedRow

POOL_BATCHES = 16
"""Batches are cut from pools of so many batches sorted by length: padding falls from a third to 1 % on docstrings,
while the composition of batches stays random from epoch to epoch."""


@dataclass(frozen=True)
class Batch:
    """Padded rows. Padding is at the right; `labels_BT` is -100 wherever there is no loss."""

    token_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    labels_BT: torch.Tensor

    @property
    def label_count(self) -> int:
        """Completion tokens, which carry the loss."""
        return int((self.labels_BT != IGNORED).sum())

    @property
    def token_count(self) -> int:
        """Tokens without padding."""
        return int(self.attention_mask_BT.sum())


IGNORED = -100


def epoch_batches(lengths: Sequence[int], *, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of each batch of an epoch: every row once, rows of similar length together, batches in random order.

    A pure function of its arguments, so that a resumed run sees what the interrupted one would have seen.
    """
    rng = random.Random(f"{seed}/{epoch}")  # noqa: S311 - a shuffle, not a secret
    order = list(range(len(lengths)))
    rng.shuffle(order)
    pool_size = batch_size * POOL_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(order), pool_size):
        pool = sorted(order[start : start + pool_size], key=lambda row: lengths[row])
        batches += [pool[first : first + batch_size] for first in range(0, len(pool), batch_size)]
    rng.shuffle(batches)
    return batches


def batch_of_step(step: int, lengths: Sequence[int], *, batch_size: int, seed: int) -> list[int]:
    """Row numbers of optimizer step `step`, counted from 0 over all epochs."""
    batches_per_epoch = -(-len(lengths) // batch_size)
    epoch, index = divmod(step, batches_per_epoch)
    return epoch_batches(lengths, batch_size=batch_size, seed=seed, epoch=epoch)[index]


def sorted_batches(lengths: Sequence[int], *, batch_size: int) -> list[list[int]]:
    """Row numbers by length, for validation, where the order does not matter."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def collate(rows: Sequence[EncodedRow], *, pad_token_id: int) -> Batch:
    """One batch, as wide as its longest row. Tensors int64 [B, T]."""
    width = max(len(row.token_ids) for row in rows)
    token_ids_BT = torch.full((len(rows), width), pad_token_id)
    attention_mask_BT = torch.zeros((len(rows), width), dtype=torch.long)
    labels_BT = torch.full((len(rows), width), IGNORED)
    for index, row in enumerate(rows):
        length = len(row.token_ids)
        token_ids_BT[index, :length] = torch.tensor(row.token_ids)
        attention_mask_BT[index, :length] = 1
        labels_BT[index, row.completion_start : length] = token_ids_BT[index, row.completion_start : length]
    return Batch(token_ids_BT, attention_mask_BT, labels_BT)
