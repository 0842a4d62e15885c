"""Reads a LoRA adapter that PEFT saved, checks every tensor against config and base model, and writes it as ours.

Ours is PEFT's format, too, with everything spelled out: modules by name instead of patterns, nothing but LoRA tensors.
An adapter that is ours already is written again byte for byte.
"""

from __future__ import annotations

import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch

from luthierd.trainer.blocks.lora import CONFIG_FILE, PEFT_PREFIX, WEIGHTS_FILE, write_peft_config
from luthierd.trainer.blocks.peft_config import LoraShape, PeftOptions, modules_of
from luthierd.trainer.domain.adapter_import import (
    AdapterChangesBaseError,
    AdapterInvalidError,
    AdapterModuleUnknownError,
    AdapterNotFiniteError,
    AdapterRankTooLargeError,
)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class PeftAdapter:
    """A checked adapter. `tensors`: LoRA's only, by PEFT's names; `notes`: sentences for the one who imported it."""

    options: PeftOptions
    modules: dict[str, LoraShape]
    tensors: dict[str, torch.Tensor]
    notes: tuple[str, ...]

    @property
    def rank(self) -> int:
        """The largest."""
        return max(shape.rank for shape in self.modules.values())

    @property
    def target_modules(self) -> tuple[str, ...]:
        """Names of the layers, such as `q_proj`, sorted."""
        return tuple(sorted({path.rpartition(".")[2] for path in self.modules}))

    def save(self, folder: pathlib.Path, *, model: Any, base_model: str) -> None:
        """Writes the two files that PEFT and vLLM load, the tensors in the types that they came in."""
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(self.tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        alpha = Counter(shape.alpha for shape in self.modules.values()).most_common(1)[0][0]
        shapes = self.modules.items()
        write_peft_config(
            folder / CONFIG_FILE,
            base_model=base_model,
            r=self.rank,
            lora_alpha=alpha,
            lora_dropout=self.options.lora_dropout,
            use_rslora=self.options.use_rslora,
            target_modules=self._names(model),
            rank_pattern={path: shape.rank for path, shape in shapes if shape.rank != self.rank},
            alpha_pattern={path: shape.alpha for path, shape in shapes if shape.alpha != alpha},
        )

    def _names(self, model: Any) -> list[str]:
        """Last parts of the paths where they name these modules and no others, else the paths."""
        named = [path for path, _ in model.named_modules() if path.rpartition(".")[2] in self.target_modules]
        return list(self.target_modules) if set(named) == set(self.modules) else sorted(self.modules)


def read_peft_adapter(
    options: PeftOptions, weights: pathlib.Path, *, model: Any, base_folder: pathlib.Path, max_rank: int
) -> PeftAdapter:
    """`model` is the base model without adapters, `base_folder` its files.

    AdapterInvalidError, AdapterUnsupportedError, AdapterModuleUnknownError, AdapterChangesBaseError,
    AdapterNotFiniteError, AdapterRankTooLargeError.
    """
    modules = modules_of(options, model)
    if (rank := max(shape.rank for shape in modules.values())) > max_rank:
        raise AdapterRankTooLargeError(rank, max_rank)
    expected = _expected(modules, model)
    tensors, saved = {}, []
    try:
        with safetensors.safe_open(weights, framework="pt") as file:
            names = list(file.keys())
            _check_names(names, expected, modules, model)
            for name in names:
                tensor = file.get_tensor(name)
                if name in expected:
                    _check_tensor(name, tensor, expected[name], modules)
                    tensors[name] = tensor
                else:
                    _check_saved(name, tensor, model, base_folder)
                    saved.append(name.removeprefix(PEFT_PREFIX))
    except safetensors.SafetensorError as error:
        raise _invalid(f"{WEIGHTS_FILE} is cut off or not a safetensors file ({error}); copy it again") from error
    notes = [f"left out {', '.join(sorted(saved))}: the same as in the base model"] if saved else []
    return PeftAdapter(options=options, modules=modules, tensors=tensors, notes=tuple(notes))


def _expected(modules: Mapping[str, LoraShape], model: Any) -> dict[str, tuple[int, int]]:
    """Names and shapes of the tensors that the modules need."""
    found = {}
    for path, shape in modules.items():
        module, prefix = model.get_submodule(path), f"{PEFT_PREFIX}{path}"
        if isinstance(module, torch.nn.Embedding):
            found[f"{prefix}.lora_embedding_A"] = (shape.rank, module.num_embeddings)
            found[f"{prefix}.lora_embedding_B"] = (module.embedding_dim, shape.rank)
        else:
            found[f"{prefix}.lora_A.weight"] = (shape.rank, module.in_features)
            found[f"{prefix}.lora_B.weight"] = (module.out_features, shape.rank)
    return found


def _check_names(
    names: list[str], expected: Mapping[str, object], modules: Mapping[str, LoraShape], model: Any
) -> None:
    """Every module has its two matrices, and there is none for another module."""
    known = {path for path, _ in model.named_modules()}
    for name in names:
        path, is_lora, _ = name.removeprefix(PEFT_PREFIX).partition(".lora_")
        if not is_lora or name in expected:
            continue
        if path not in known:
            raise AdapterModuleUnknownError(
                f"the base model has no module {path[:200]}, which tensor {name[:200]} is for; was the adapter trained "
                "on this model?",
                metadata={"module": path[:200], "tensor": name[:200]},
            )
        where = "names" if path in modules else "does not name"
        raise _invalid(
            f"tensor {name[:200]} is not one of those that PEFT makes for {path[:200]}, a module that the config "
            f"{where}",
            tensor=name[:200],
        )
    if missing := sorted(expected.keys() - set(names)):
        few = ", ".join(missing[:MAX_NAMED])
        raise _invalid(
            f"{len(missing)} tensors are missing that the config asks for, such as {few}; save the adapter again",
            tensor=missing[0],
            count=str(len(missing)),
        )


def _check_tensor(name: str, tensor: torch.Tensor, shape: tuple[int, int], modules: Mapping[str, LoraShape]) -> None:
    if tensor.dtype not in DTYPES:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise _invalid(f"tensor {name} has the type {tensor.dtype}; only {allowed} are read", tensor=name)
    if tuple(tensor.shape) != shape:
        path = name.removeprefix(PEFT_PREFIX).partition(".lora_")[0]
        found = f"tensor {name} has the shape {list(tensor.shape)}, not {list(shape)}"
        if modules[path].rank not in tensor.shape:
            raise _invalid(f"{found}: the config gives {path} the rank {modules[path].rank}", tensor=name)
        raise AdapterModuleUnknownError(
            f"{found}, which {path} of the base model needs; was the adapter trained on this model?",
            metadata={"module": path, "tensor": name},
        )
    if not torch.isfinite(tensor).all():
        raise AdapterNotFiniteError(
            f"tensor {name} holds numbers that are not finite; its training diverged", metadata={"tensor": name}
        )


def _check_saved(name: str, tensor: torch.Tensor, model: Any, base_folder: pathlib.Path) -> None:
    """AdapterChangesBaseError unless the tensor is the base model's own, as saved embeddings and heads mostly are."""
    own = name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")
    candidates = list(_base_tensors(own, model, base_folder))
    if not candidates:
        raise AdapterModuleUnknownError(
            f"the base model has no tensor {own[:200]}, which the adapter's {name[:200]} would replace",
            metadata={"module": own[:200], "tensor": name[:200]},
        )
    if not any(one.shape == tensor.shape and torch.equal(one.to(tensor.dtype), tensor) for one in candidates):
        shape = "" if candidates[0].shape == tensor.shape else f" (shape {list(tensor.shape)})"
        raise AdapterChangesBaseError(
            f"the adapter replaces {own}{shape} of the base model, which the engine cannot do for one adapter; train "
            "without modules_to_save and without new tokens, or merge it and import the result with "
            "`luthier model import`",
            metadata={"tensor": name},
        )


def _base_tensors(name: str, model: Any, base_folder: pathlib.Path) -> Iterator[torch.Tensor]:
    """A parameter of the base model as its files have it, under any name of the parameter, else as the model has it."""
    parameters = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    if name not in parameters:
        return
    names = [other for other, parameter in parameters.items() if parameter is parameters[name]]
    found = False
    for path in sorted(base_folder.glob("*.safetensors")):
        with safetensors.safe_open(path, framework="pt") as file:
            for own in set(names) & set(file.keys()):
                found = True
                yield file.get_tensor(own)
    if not found:
        yield parameters[name].detach().cpu()


def _invalid(problem: str, **metadata: str) -> AdapterInvalidError:
    return AdapterInvalidError(problem, metadata=metadata)
