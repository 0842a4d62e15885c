from __future__ import annotations

import itertools

import pytest
from luthierd.trainer.blocks.schedule import (
    batch_of_step,
    cosine_learning_rate,
    epoch_batches,
    sorted_batches,
    step_count,
)

LENGTHS = [(index * 37) % 101 + 1 for index in range(203)]


def test_every_row_comes_once_in_an_epoch() -> None:
    batches = epoch_batches(LENGTHS, batch_size=8, seed=1, epoch=0)
    assert sorted(row for batch in batches for row in batch) == list(range(len(LENGTHS)))
    assert max(map(len, batches)) == 8


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    first = epoch_batches(LENGTHS, batch_size=8, seed=1, epoch=0)
    assert epoch_batches(LENGTHS, batch_size=8, seed=1, epoch=0) == first
    assert epoch_batches(LENGTHS, batch_size=8, seed=1, epoch=1) != first
    assert epoch_batches(LENGTHS, batch_size=8, seed=2, epoch=0) != first


def test_rows_of_a_batch_are_of_similar_length() -> None:
    padded = sum(
        max(LENGTHS[row] for row in batch) * len(batch)
        for batch in epoch_batches(LENGTHS, batch_size=8, seed=1, epoch=0)
    )
    assert padded / sum(LENGTHS) < 1.1


def test_steps_count_on_over_epochs() -> None:
    second_epoch = epoch_batches(LENGTHS, batch_size=8, seed=3, epoch=1)
    assert batch_of_step(26 + 4, LENGTHS, batch_size=8, seed=3) == second_epoch[4]


def test_validation_batches_are_sorted_by_length() -> None:
    assert sorted_batches([5, 1, 3, 1], batch_size=3) == [[1, 3, 2], [0]]


@pytest.mark.parametrize(
    ("rows", "epochs", "bound", "expected"), [(17, 1.0, 0, 3), (17, 2.5, 0, 8), (17, 2.0, 4, 4), (1, 0.1, 0, 1)]
)
def test_steps_of_a_run(rows: int, epochs: float, bound: int, expected: int) -> None:
    assert step_count(rows, batch_size=8, epoch_count=epochs, max_steps=bound) == expected


def test_the_learning_rate_rises_then_falls_to_its_minimum() -> None:
    rates = [
        cosine_learning_rate(step, total_steps=40, peak=1.0, warmup_ratio=0.1, min_ratio=0.2) for step in range(40)
    ]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    assert rates[-1] == pytest.approx(0.2)
