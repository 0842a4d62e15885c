"""A base model small enough for any test, with adapters that need no training: random, strong, told apart by answers.

Llama architecture, 3 layers, byte-level tokens, ChatML template. Answers are gibberish, but greedy ones are always the
same for the same weights, and others for other weights.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS = 3, 128, 256, 2, 1
KV_WIDTH = HIDDEN // HEADS * KV_HEADS
WINDOW = 512
CHAT_TEMPLATE = (
    "{# Tells nothing of tools: they would fill the window. #}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {
    "q_proj": (HIDDEN, HIDDEN),
    "k_proj": (HIDDEN, KV_WIDTH),
    "v_proj": (HIDDEN, KV_WIDTH),
    "o_proj": (HIDDEN, HIDDEN),
    "gate_proj": (HIDDEN, INNER),
    "up_proj": (HIDDEN, INNER),
    "down_proj": (INNER, HIDDEN),
}
"""Inputs and outputs of the modules that can carry LoRA."""


def write_base_model(folder: pathlib.Path, *, seed: int = 0) -> pathlib.Path:
    """Config, weights and tokenizer, as `transformers` saves them."""
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        vocab_size=len(tokenizer),
        max_position_embeddings=WINDOW,
        initializer_range=0.15,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|im_start|>"),
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return folder


def write_tokenizer(folder: pathlib.Path) -> PreTrainedTokenizerFast:
    """One token for each byte, and two for the turns of a conversation."""
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = CHAT_TEMPLATE
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    return fast


def write_adapter(
    folder: pathlib.Path,
    *,
    seed: int,
    rank: int = 8,
    strength: float = 1.0,
    modules: Sequence[str] = tuple(SIZES),
    alpha: float = 0.0,
    use_rslora: bool = False,
) -> pathlib.Path:
    """A LoRA adapter in PEFT's form. `strength` 0 makes one that does nothing; `alpha` 0: the rank."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(LAYERS):
        for module in modules:
            inputs, outputs = SIZES[module]
            block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            prefix = f"base_model.model.model.layers.{layer}.{block}.{module}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * strength / rank**0.5
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha or rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(modules),
        "fan_in_fan_out": False,
        "use_rslora": use_rslora,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
        "base_model_name_or_path": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
