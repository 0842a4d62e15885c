"""Reference log-probabilities of a trained model."""

from __future__ import annotations

import math
import pathlib

import pytest
import torch
from luthierd.trainer.blocks.lora import inject_lora
from luthierd.trainer.blocks.model import load_model
from luthierd.trainer.references import completion_logprobs, reference_rows
from support.training_runs import CONFIG, Recorder, encoded, run
from transformers import AutoModelForCausalLM


def test_references_tell_the_tuned_model_from_the_base(tiny_llama: pathlib.Path, tmp_path: pathlib.Path) -> None:
    trained, model = run(tiny_llama, tmp_path, Recorder())
    (reference, *_) = reference_rows(
        model, [row.prompt_ids for row in encoded(tiny_llama, 3)], without_adapter=trained.weights.disabled
    )
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    expected = completion_logprobs(plain, reference.prompt_ids, reference.completion_ids)
    assert reference.base_logprobs == pytest.approx(expected, abs=1e-4)
    assert max(abs(a - b) for a, b in zip(reference.base_logprobs, reference.tuned_logprobs, strict=True)) > 1
    assert all(math.isfinite(value) and value <= 0 for value in reference.tuned_logprobs)


def test_references_are_made_of_the_shortest_prompts(tiny_llama: pathlib.Path) -> None:
    model = load_model(tiny_llama, dtype=torch.float32, longest_row_tokens=100)
    weights = inject_lora(model, CONFIG)
    rows = encoded(tiny_llama, 8)
    made = reference_rows(model, [row.prompt_ids for row in rows], without_adapter=weights.disabled)
    found = [len(reference.prompt_ids) for reference in made]
    assert found == sorted(row.completion_start for row in rows)[:3]
    assert found != [row.completion_start for row in rows[:3]]
