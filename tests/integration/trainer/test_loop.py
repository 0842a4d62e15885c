"""The loop on a tiny model: losses, resuming, cancelling, stopping."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import pytest
import torch
from luthierd.trainer.blocks.encoding import EmptySplitError
from luthierd.trainer.loop import TrainingCancelled, TrainingDivergedError
from support.training_runs import CONFIG, Recorder, run


def test_the_loss_falls_and_the_best_weights_are_kept(tiny_llama: pathlib.Path, tmp_path: pathlib.Path) -> None:
    report = Recorder()
    trained, _ = run(tiny_llama, tmp_path, report)
    assert len(report.steps) == 15  # 5 batches of at most 4 in 18 rows, 3 epochs
    assert report.losses[-1] < report.losses[0] / 2
    validated = {p.step: p.validation_loss for p in report.steps if p.validation_loss is not None}
    assert set(validated) == {4, 8, 12, 15}
    assert trained.validation_loss == min(validated.values()) == validated[trained.step]
    assert report.steps[0].tokens_per_second > 0
    assert report.steps[-1].remaining_s == 0


def test_a_run_that_dies_and_resumes_reports_the_same_losses_bit_for_bit(
    tiny_llama: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = dataclasses.replace(CONFIG, dropout=0.1)
    whole = Recorder()
    expected, _ = run(tiny_llama, tmp_path / "whole", whole, config=config)
    first, second = Recorder(die_after=7), Recorder()
    with pytest.raises(KeyboardInterrupt):
        run(tiny_llama, tmp_path / "halves", first, config=config)
    got, _ = run(tiny_llama, tmp_path / "halves", second, config=config)
    assert second.messages == ["resumed after step 6 of 15"]
    assert first.losses == whole.losses[:7]
    assert second.losses == whole.losses[6:]
    assert got.validation_loss == expected.validation_loss
    assert all(torch.equal(got.weights.state()[name], tensor) for name, tensor in expected.weights.state().items())


def test_another_runs_checkpoint_is_not_resumed(tiny_llama: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run(tiny_llama, tmp_path, Recorder(), fingerprint="one")
    report = Recorder()
    run(tiny_llama, tmp_path, report, fingerprint="other")
    assert report.messages == []
    assert report.steps[0].step == 1


@pytest.mark.parametrize("damage", [lambda data: data[:1000], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tiny_llama: pathlib.Path, tmp_path: pathlib.Path, damage: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tiny_llama, tmp_path, Recorder(die_after=7))
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [path.name[:13] for path in files] == ["step-00000003", "step-00000006"]
    files[-1].write_bytes(damage(files[-1].read_bytes()))
    report = Recorder()
    run(tiny_llama, tmp_path, report)
    assert report.messages == ["resumed after step 3 of 15"]


def test_cancel_stops_within_one_step(tiny_llama: pathlib.Path, tmp_path: pathlib.Path) -> None:
    report = Recorder(cancel_after=2)
    with pytest.raises(TrainingCancelled):
        run(tiny_llama, tmp_path, report)
    assert len(report.steps) == 2


def test_a_diverging_run_ends_with_the_step_and_what_to_do(tiny_llama: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(CONFIG, learning_rate=1e30, max_grad_norm=1e30)
    with pytest.raises(TrainingDivergedError, match="lower learning_rate") as caught:
        run(tiny_llama, tmp_path, Recorder(), config=config)
    assert int(caught.value.metadata["step"]) >= 2


def test_early_stopping_keeps_the_best_step(tiny_llama: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(
        CONFIG, validation_interval_steps=1, early_stopping_patience=2, early_stopping_min_delta=1000.0
    )
    report = Recorder()
    trained, _ = run(tiny_llama, tmp_path, report, config=config)
    assert len(report.steps) == 3  # the first is better than none; then two without improvement
    assert trained.step == 1
    assert report.messages[0].startswith("stopped early after step 3 of 15")


def test_an_empty_split_is_refused(tiny_llama: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(EmptySplitError, match="train split"):
        run(tiny_llama, tmp_path, Recorder(), rows=[])
