"""LoRA layers that put the low-rank product into the same pass as the frozen layer, and PEFT's file format for them.

PEFT is the reference for numbers and names (tests compare both); its layer casts and allocates at every call.
LoRA: https://arxiv.org/abs/2106.09685.

Axes: N positions of all rows, I input, O output, R rank.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import peft
import safetensors.torch
import torch

from luthierd.errors import InvalidArgumentError
from luthierd.files import write_atomically
from luthierd.trainer.domain.training import TrainingConfig

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
PEFT_PREFIX = "base_model.model."


class UnknownTargetModuleError(InvalidArgumentError):
    """The model has no linear layer of that name."""

    reason = "UNKNOWN_TARGET_MODULE"


class _LoraProduct(torch.autograd.Function):
    """y = x W' + b + s (x A') B'; the frozen W and b get no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NI: torch.Tensor,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        down_RI: torch.Tensor,
        up_OR: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        down_RI, up_OR = down_RI.to(x_NI.dtype), up_OR.to(x_NI.dtype)
        hidden_NR = x_NI @ down_RI.t()
        y_NO = torch.nn.functional.linear(x_NI, weight_OI, bias_O)
        y_NO.addmm_(hidden_NR, up_OR.t(), alpha=scaling)
        ctx.save_for_backward(x_NI, hidden_NR, weight_OI, down_RI, up_OR)
        ctx.scaling = scaling
        return y_NO

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (dy_NO,) = gradients
        x_NI, hidden_NR, weight_OI, down_RI, up_OR = ctx.saved_tensors
        dhidden_NR = (dy_NO @ up_OR).mul_(ctx.scaling)
        dx_NI = None
        if ctx.needs_input_grad[0]:
            dx_NI = dy_NO @ weight_OI
            dx_NI.addmm_(dhidden_NR, down_RI)
        ddown_RI = (dhidden_NR.t() @ x_NI).float()
        dup_OR = (dy_NO.t() @ hidden_NR).mul_(ctx.scaling).float()
        return dx_NI, None, None, ddown_RI, dup_OR, None


class LoraLinear(torch.nn.Module):
    """A frozen linear layer plus a trainable low-rank product. Starts as the frozen layer: `up` is zero."""

    def __init__(
        self, frozen: torch.nn.Linear, *, rank: int, scaling: float, dropout: float, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.weight, self.bias = frozen.weight, frozen.bias
        self.scaling, self.dropout = scaling, dropout
        self.is_enabled = True
        bound = frozen.in_features**-0.5  # PEFT's: kaiming_uniform_ with a = sqrt(5)
        down_RI = torch.rand((rank, frozen.in_features), generator=rng) * 2 * bound - bound
        where = frozen.weight.device
        # float32 whatever the model computes in: bfloat16 would lose small updates. The cast per call is of R columns.
        self.down = torch.nn.Parameter(down_RI.to(where))
        self.up = torch.nn.Parameter(torch.zeros(frozen.out_features, rank, device=where))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., I] -> [..., O]; the frozen layer alone where `is_enabled` is False."""
        if not self.is_enabled:
            return torch.nn.functional.linear(x, self.weight, self.bias)
        if self.dropout and self.training:
            frozen = torch.nn.functional.linear(x, self.weight, self.bias)
            dropped = torch.nn.functional.dropout(x, self.dropout)
            hidden = torch.nn.functional.linear(dropped, self.down.to(x.dtype))
            return frozen + torch.nn.functional.linear(hidden, self.up.to(x.dtype)) * self.scaling
        flat_NI = x.reshape(-1, x.shape[-1])
        y_NO = _LoraProduct.apply(flat_NI, self.weight, self.bias, self.down, self.up, self.scaling)
        return y_NO.view(*x.shape[:-1], y_NO.shape[-1])


def default_target_modules(model: torch.nn.Module) -> tuple[str, ...]:
    """Names of all linear layers except the output head, which is usually tied to the embeddings."""
    head = model.get_output_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    return tuple(sorted(names))


class LoraWeights:
    """The LoRA layers of a model, by module path. See `recipes.recipe.Weights`."""

    def __init__(self, layers: dict[str, LoraLinear], config: TrainingConfig) -> None:
        self.layers, self._config = layers, config

    @property
    def target_modules(self) -> tuple[str, ...]:
        """Names of the adapted layers, such as `q_proj`, sorted."""
        return tuple(sorted({path.rpartition(".")[2] for path in self.layers}))

    def parameters(self) -> list[torch.nn.Parameter]:
        """In the order of the model's modules."""
        return [parameter for layer in self.layers.values() for parameter in (layer.down, layer.up)]

    def state(self) -> dict[str, torch.Tensor]:
        """Copies under PEFT's names."""
        state = {}
        for path, layer in self.layers.items():
            state[f"{PEFT_PREFIX}{path}.lora_A.weight"] = layer.down.detach().clone()
            state[f"{PEFT_PREFIX}{path}.lora_B.weight"] = layer.up.detach().clone()
        return state

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `state`, in place."""
        with torch.no_grad():
            for path, layer in self.layers.items():
                layer.down.copy_(state[f"{PEFT_PREFIX}{path}.lora_A.weight"])
                layer.up.copy_(state[f"{PEFT_PREFIX}{path}.lora_B.weight"])

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the model is the base model."""
        for layer in self.layers.values():
            layer.is_enabled = False
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.is_enabled = True

    def save(self, folder: pathlib.Path, *, base_model: str) -> None:
        """Writes the two files that PEFT and vLLM load, in float32."""
        weights = {name: tensor.to(torch.float32).contiguous() for name, tensor in self.state().items()}
        write_atomically(folder / WEIGHTS_FILE, iter([safetensors.torch.save(weights, metadata={"format": "pt"})]))
        config = self._config
        write_peft_config(
            folder / CONFIG_FILE,
            base_model=base_model,
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            use_rslora=config.use_rslora,
            target_modules=list(self.target_modules),
        )


def write_peft_config(path: pathlib.Path, *, base_model: str, lora_alpha: float, **options: Any) -> None:
    """Writes an `adapter_config.json` with all options of PEFT's `LoraConfig`: `options`, the others at their defaults.
    The same options give the same bytes.
    """
    described = peft.LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_model,
        lora_alpha=_whole(lora_alpha),
        inference_mode=True,
        **options,
    ).to_dict()
    text = json.dumps(described, indent=2, sort_keys=True, default=_jsonable)
    write_atomically(path, iter([text.encode() + b"\n"]))


def _whole(number: float) -> float:
    """PEFT's alphas are integers."""
    return int(number) if float(number).is_integer() else number


def inject_lora(model: torch.nn.Module, config: TrainingConfig) -> LoraWeights:
    """Freezes `model` and replaces its target layers in place.

    The initial weights depend on the seed and the order of the model's modules only. UnknownTargetModuleError.
    """
    model.requires_grad_(False)
    targets = config.target_modules or default_target_modules(model)
    found = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    if unknown := sorted(set(targets) - found):
        raise UnknownTargetModuleError(
            f"the model has no linear layer {', '.join(unknown)}; choose from {', '.join(sorted(found))}",
            metadata={"target_modules": ",".join(unknown)},
        )
    rng = torch.Generator().manual_seed(config.seed)
    layers: dict[str, LoraLinear] = {}
    for path, module in list(model.named_modules()):
        parent, _, leaf = path.rpartition(".")
        if leaf in targets and isinstance(module, torch.nn.Linear):
            layers[path] = LoraLinear(module, rank=config.rank, scaling=config.scaling, dropout=config.dropout, rng=rng)
            setattr(model.get_submodule(parent), leaf, layers[path])
    return LoraWeights(layers, config)


def _jsonable(value: object) -> object:
    return sorted(value) if isinstance(value, set) else str(value)
