from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
from typing import Any

import peft
import pytest
import torch
from luthierd.trainer.blocks.batches import collate
from luthierd.trainer.blocks.checkpoint import CheckpointFolder
from luthierd.trainer.blocks.encoding import EmptySplitError, EncodedRow, encode_rows
from luthierd.trainer.blocks.errors import TrainingCancelled, TrainingDivergedError
from luthierd.trainer.blocks.lora import UnknownTargetModuleError, inject_lora, save_adapter
from luthierd.trainer.blocks.model import completion_loss, load_model, load_tokenizer
from luthierd.trainer.blocks.references import completion_logprobs, reference_rows
from luthierd.trainer.domain import TrainingConfig, TrainingProgress
from luthierd.trainer.recipes.sft import Trained, train
from support.toy_rows import toy_rows
from transformers import AutoModelForCausalLM

CONFIG = TrainingConfig(
    rank=4,
    alpha=8.0,
    batch_size=4,
    micro_batch_size=2,
    epoch_count=3.0,
    learning_rate=0.01,
    validation_interval_steps=4,
    checkpoint_interval_steps=3,
    early_stopping_patience=0,
)


class Recorder:
    """Keeps what a run reports, and cancels or dies after a number of steps."""

    def __init__(self, *, cancel_after: int | None = None, die_after: int | None = None) -> None:
        self.steps: list[TrainingProgress] = []
        self.messages: list[str] = []
        self._cancel_after, self._die_after = cancel_after, die_after

    def progress(self, progress: TrainingProgress) -> None:
        if self._die_after is not None and len(self.steps) == self._die_after:
            raise KeyboardInterrupt
        self.steps.append(progress)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def settle(self) -> None:
        """Nothing to wait for."""

    def cancelled(self) -> bool:
        return self._cancel_after is not None and len(self.steps) >= self._cancel_after

    @property
    def losses(self) -> list[float]:
        return [progress.loss for progress in self.steps]


def encoded(folder: pathlib.Path, count: int, split: str = "train") -> list[EncodedRow]:
    return encode_rows(toy_rows(count, split=split), load_tokenizer(folder), limit_tokens=512)


def run(
    folder: pathlib.Path,
    checkpoints: pathlib.Path,
    report: Recorder,
    *,
    config: TrainingConfig = CONFIG,
    rows: list[EncodedRow] | None = None,
    fingerprint: str = "same",
) -> tuple[Trained, Any]:
    model = load_model(folder, dtype=torch.float32, longest_row_tokens=100)
    trained = train(
        model,
        encoded(folder, 18) if rows is None else rows,
        validation_rows=encoded(folder, 6, "validation"),
        config=config,
        pad_token_id=0,
        checkpoints=CheckpointFolder(checkpoints, fingerprint=fingerprint),
        report=report,
        clock=itertools.count(0.0, 0.5).__next__,
    )
    return trained, model


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
    assert all(torch.equal(got.lora[name], tensor) for name, tensor in expected.lora.items())


def test_another_runs_checkpoint_is_not_resumed(tiny_llama: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run(tiny_llama, tmp_path, Recorder(), fingerprint="one")
    report = Recorder()
    run(tiny_llama, tmp_path, report, fingerprint="other")
    assert report.messages == []
    assert report.steps[0].step == 1


def test_a_torn_checkpoint_falls_back_to_the_one_before(tiny_llama: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tiny_llama, tmp_path, Recorder(die_after=7))
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [path.name for path in files] == ["step-00000003.safetensors", "step-00000006.safetensors"]
    files[-1].write_bytes(files[-1].read_bytes()[:1000])
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


@pytest.mark.parametrize("use_rslora", [False, True])
def test_loss_and_gradients_are_those_of_peft(
    tiny_llama: pathlib.Path, tmp_path: pathlib.Path, use_rslora: bool
) -> None:
    config = dataclasses.replace(CONFIG, use_rslora=use_rslora)
    rows = encoded(tiny_llama, 5)
    batch = collate(rows, pad_token_id=0)
    ours = load_model(tiny_llama, dtype=torch.float32, longest_row_tokens=100)
    layers = inject_lora(ours, config)
    rng = torch.Generator().manual_seed(1)
    for layer in layers.values():
        layer.up.data = torch.randn(layer.up.shape, generator=rng) * 0.1
    state = {f"base_model.model.{path}.lora_A.weight": layer.down.detach() for path, layer in layers.items()}
    state |= {f"base_model.model.{path}.lora_B.weight": layer.up.detach() for path, layer in layers.items()}
    targets = sorted({path.rpartition(".")[2] for path in layers})
    save_adapter(tmp_path, state, config=config, target_modules=targets, base_model="baseModels/tiny")

    plain = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    reference = peft.PeftModel.from_pretrained(plain, tmp_path, is_trainable=True)
    output = reference(input_ids=batch.token_ids_BT, attention_mask=batch.attention_mask_BT, labels=batch.labels_BT)
    output.loss.backward()
    loss = completion_loss(ours, batch) / batch.label_count
    loss.backward()

    assert loss.item() == pytest.approx(output.loss.item(), abs=1e-4)
    expected = {name.replace(".default", ""): p.grad for name, p in reference.named_parameters() if p.grad is not None}
    for path, layer in layers.items():
        for gradient, kind in ((layer.down.grad, "lora_A"), (layer.up.grad, "lora_B")):
            torch.testing.assert_close(
                gradient, expected[f"base_model.model.{path}.{kind}.weight"], rtol=1e-3, atol=1e-5
            )


def test_references_tell_the_tuned_model_from_the_base(tiny_llama: pathlib.Path, tmp_path: pathlib.Path) -> None:
    _, model = run(tiny_llama, tmp_path, Recorder())
    (reference, *_) = reference_rows(model, encoded(tiny_llama, 3))
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    expected = completion_logprobs(plain, reference.prompt_ids, reference.completion_ids)
    assert reference.base_logprobs == pytest.approx(expected, abs=1e-4)
    assert max(abs(a - b) for a, b in zip(reference.base_logprobs, reference.tuned_logprobs, strict=True)) > 1
    assert all(math.isfinite(value) and value <= 0 for value in reference.tuned_logprobs)


def test_references_are_made_of_the_shortest_prompts(tiny_llama: pathlib.Path) -> None:
    model = load_model(tiny_llama, dtype=torch.float32, longest_row_tokens=100)
    inject_lora(model, CONFIG)
    rows = encoded(tiny_llama, 8)
    found = [len(reference.prompt_ids) for reference in reference_rows(model, rows)]
    assert found == sorted(row.completion_start for row in rows)[:3]
    assert found != [row.completion_start for row in rows[:3]]


def test_an_unknown_target_module_is_named_with_the_known_ones(tiny_llama: pathlib.Path) -> None:
    model = load_model(tiny_llama, dtype=torch.float32, longest_row_tokens=100)
    with pytest.raises(UnknownTargetModuleError, match=r"no linear layer c_attn; choose from .*q_proj"):
        inject_lora(model, dataclasses.replace(CONFIG, target_modules=("q_proj", "c_attn")))
