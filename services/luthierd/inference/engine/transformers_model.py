"""A Hugging Face causal language model with several PEFT adapters, of which one is active in a forward pass.

It knows nothing of requests. Not thread-safe: which adapter is active is state of the model. Axes: B rows, T positions,
V vocabulary, H hidden.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.functional import inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from luthierd.inference.domain.errors import AdapterInvalidError

WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
"""PEFT's prefix of a module's path in saved files; the modules of a bare model have none."""


class LoraModel:
    """The base model and the adapters injected into it, by name without a dot."""

    def __init__(self, folder: pathlib.Path, *, dtype: torch.dtype, device: str) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        self.model.eval().requires_grad_(False).to(device)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.device, self.dtype = device, dtype
        self.end_ids = frozenset(_end_ids(self.model, self.tokenizer))
        self._names: set[str] = set()
        self._layers: list[Any] = []
        self._active: str | None = None

    def load(self, name: str, config: LoraConfig, tensors: dict[str, Tensor]) -> None:
        """Adds an adapter. AdapterInvalidError if its tensors do not match its config and this model."""
        try:
            inject_adapter_in_model(config, self.model, adapter_name=name, low_cpu_mem_usage=True)
            bare = {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in tensors.items()}
            wanted = {
                key.replace(f".{name}.", ".").removesuffix(f".{name}"): parameter.shape
                for key, parameter in self.model.named_parameters()
                if f".{name}." in key or key.endswith(f".{name}")
            }
            given = {key: tensor.shape for key, tensor in bare.items()}
            if wrong := sorted(key for key in wanted.keys() | given.keys() if wanted.get(key) != given.get(key)):
                raise AdapterInvalidError(
                    f"{len(wrong)} of its tensors do not match its config and this base model, the first is {wrong[0]}",
                    metadata={"tensor": wrong[0], "count": str(len(wrong))},
                )
            set_peft_model_state_dict(self.model, bare, adapter_name=name, low_cpu_mem_usage=True)
            self.model.to(self.device)
        except BaseException:
            self.unload(name)
            raise
        self._names.add(name)
        self._refresh()

    def unload(self, name: str) -> None:
        """Removes an adapter, even a partially injected one."""
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.delete_adapter(name)
        getattr(self.model, "peft_config", {}).pop(name, None)
        self._names.discard(name)
        self._refresh()

    def _refresh(self) -> None:
        """PEFT activates an adapter when it is added, and another when the active one is removed."""
        self._layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        self._activate(None)

    def _activate(self, name: str | None) -> None:
        if name is not None and name not in self._names:
            raise KeyError(f"adapter {name} is not loaded")  # PEFT would answer as the base model does
        for layer in self._layers:
            if name is None:
                layer.enable_adapters(False)
            else:
                layer.enable_adapters(True)
                layer.set_adapter(name, inference_mode=True)
        self._active = name

    def forward(self, adapter: str | None, input_ids_BT: Tensor, **more: Any) -> Any:
        """One forward pass of all rows with one adapter, or with none."""
        if adapter != self._active:
            self._activate(adapter)
        return self.model(input_ids=input_ids_BT, **more)

    def new_cache(self) -> Any:
        return DynamicCache(config=self.model.config)

    def score(self, adapter: str | None, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> tuple[float, ...]:
        """Log-probability (nats) of each token of the completion after the prompt and those before it."""
        ids_BT = torch.tensor([[*prompt_ids, *completion_ids]], device=self.device)
        logits_BTV = self.forward(adapter, ids_BT, logits_to_keep=len(completion_ids) + 1).logits
        logprobs_TV = torch.log_softmax(logits_BTV[0, :-1].float(), dim=-1)
        chosen_T = torch.tensor(completion_ids, device=self.device)
        return tuple(logprobs_TV.gather(1, chosen_T[:, None])[:, 0].tolist())

    def embed(self, adapter: str | None, ids: Sequence[int]) -> tuple[float, ...]:
        """The mean over the positions of the last hidden state (after the final norm), scaled to length 1."""
        ids_BT = torch.tensor([list(ids)], device=self.device)
        output = self.forward(adapter, ids_BT, logits_to_keep=1, output_hidden_states=True)
        mean_H = output.hidden_states[-1][0].float().mean(dim=0)
        return tuple(torch.nn.functional.normalize(mean_H, dim=0).tolist())


def read_adapter(folder: pathlib.Path) -> tuple[LoraConfig, dict[str, Tensor]]:
    """An adapter's config and tensors, from safetensors only. AdapterInvalidError."""
    try:
        config = PeftConfig.from_pretrained(str(folder))
        tensors = load_file(folder / WEIGHTS)
    except Exception as error:  # PEFT, json and safetensors raise many types
        raise AdapterInvalidError(
            f"its files cannot be read ({type(error).__name__}: {error})", metadata={"detail": type(error).__name__}
        ) from error
    if not isinstance(config, LoraConfig):
        raise AdapterInvalidError(f"its kind is {config.peft_type}; only LORA is served", metadata={})
    config.inference_mode = True
    return config, tensors


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those of the model's generation config."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    found = configured if isinstance(configured, list) else [configured]
    return [one for one in (*found, tokenizer.eos_token_id) if one is not None]
