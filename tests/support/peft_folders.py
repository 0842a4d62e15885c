"""LoRA adapters of every variety as PEFT itself saves them, random and strong, for the tiny model."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

QV = ["q_proj", "v_proj"]

VARIETIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rsLoRA": {"use_rslora": True, "lora_alpha": 3},
    "a fraction for alpha": {"lora_alpha": 2.5},
    "ranks by pattern": {"r": 8, "rank_pattern": {"q_proj": 4, r"layers\.1\.self_attn\.v_proj": 2}},
    "alphas by pattern": {"alpha_pattern": {"v_proj": 3, r"0\..*q_proj": 1}},
    "rsLoRA by patterns": {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 6}},
    "the first pattern wins": {"rank_pattern": {r"layers\.[01]\..*": 2, "q_proj": 8}},
    "every rank below r": {"r": 64, "rank_pattern": {".*": 4}},
    "a regular expression": {"target_modules": r".*\.layers\.[02]\..*(up|q)_proj"},
    "all-linear": {"target_modules": "all-linear", "saved": {"target_modules": "all-linear"}},
    "all-linear but one": {
        "target_modules": "all-linear",
        "exclude_modules": ["down_proj"],
        "saved": {"target_modules": "ALL-LINEAR"},
    },
    "excluded by an expression": {"target_modules": QV, "exclude_modules": r".*\.1\..*"},
    "PEFT's default modules": {"target_modules": None, "saved": {"target_modules": None}},
    "some layers": {"layers_to_transform": [0, 2]},
    "one layer by pattern": {"layers_to_transform": 1, "layers_pattern": "layers"},
    "paths": {"target_modules": ["model.layers.0.self_attn.q_proj", "1.mlp.up_proj"]},
    "fan_in_fan_out": {"saved": {"fan_in_fan_out": True}},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "a saved head": {"modules_to_save": ["lm_head"]},
    "a saved norm": {"modules_to_save": ["input_layernorm"]},
}
"""Options of `LoraConfig`; `saved`: what the file has instead, `dtype`: of the tensors."""


def write_peft_folder(base: pathlib.Path, folder: pathlib.Path, *, seed: int = 0, **options: Any) -> pathlib.Path:
    """An adapter of the model in `base`, with no matrix left at zero. See `VARIETIES` for the options."""
    saved, dtype = options.pop("saved", {}), options.pop("dtype", torch.float32)
    config = LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": QV} | options)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in tuned.named_parameters():
        if ".lora_" in name:
            parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.15).to(dtype)
    tuned.save_pretrained(folder)
    change_config(folder, **saved)
    return folder


def change_config(folder: pathlib.Path, **changes: Any) -> None:
    """Replaces fields of `adapter_config.json`."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@torch.no_grad()
def peft_logits(base: pathlib.Path, folder: pathlib.Path, *token_ids: torch.Tensor) -> list[torch.Tensor]:
    """What PEFT computes for each input with the adapter in `folder`."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(model, folder).eval()
    return [tuned(one).logits for one in token_ids]
