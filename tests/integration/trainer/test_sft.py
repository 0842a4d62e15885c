"""The recipe `sft`: its numbers are PEFT's."""

from __future__ import annotations

import dataclasses
import pathlib

import peft
import pytest
import torch
from luthierd.trainer.blocks.encoding import collate
from luthierd.trainer.blocks.lora import UnknownTargetModuleError
from luthierd.trainer.blocks.model import load_model
from luthierd.trainer.recipes.recipe import make_recipe
from support.training_runs import CONFIG, encoded
from transformers import AutoModelForCausalLM


@pytest.mark.parametrize("use_rslora", [False, True])
def test_loss_and_gradients_are_those_of_peft(
    tiny_llama: pathlib.Path, tmp_path: pathlib.Path, use_rslora: bool
) -> None:
    config = dataclasses.replace(CONFIG, use_rslora=use_rslora)
    rows = encoded(tiny_llama, 5)
    batch = collate(rows)
    ours = load_model(tiny_llama, dtype=torch.float32, longest_row_tokens=100)
    recipe = make_recipe(config)
    weights = recipe.build(ours)
    layers = weights.layers
    rng = torch.Generator().manual_seed(1)
    for layer in layers.values():
        layer.up.data = torch.randn(layer.up.shape, generator=rng) * 0.1
    weights.save(tmp_path, base_model="baseModels/tiny")

    plain = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    reference = peft.PeftModel.from_pretrained(plain, tmp_path, is_trainable=True)
    output = reference(input_ids=batch.token_ids_BT, attention_mask=batch.attention_mask_BT, labels=batch.labels_BT)
    output.loss.backward()
    loss = recipe.loss(ours, rows) / sum(row.label_count for row in rows)
    loss.backward()

    assert loss.item() == pytest.approx(output.loss.item(), rel=1e-6, abs=0)
    expected = {name.replace(".default", ""): p.grad for name, p in reference.named_parameters() if p.grad is not None}
    for path, layer in layers.items():
        for gradient, kind in ((layer.down.grad, "lora_A"), (layer.up.grad, "lora_B")):
            torch.testing.assert_close(
                gradient, expected[f"base_model.model.{path}.{kind}.weight"], rtol=1e-3, atol=1e-5
            )


def test_an_unknown_target_module_is_named_with_the_known_ones(tiny_llama: pathlib.Path) -> None:
    model = load_model(tiny_llama, dtype=torch.float32, longest_row_tokens=100)
    with pytest.raises(UnknownTargetModuleError, match=r"no linear layer c_attn; choose from .*q_proj"):
        make_recipe(dataclasses.replace(CONFIG, target_modules=("q_proj", "c_attn"))).build(model)
