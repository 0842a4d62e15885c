"""Checkpoints of a run: everything the next step depends on, in one file that is there whole or not at all.

No pickle: tensors as safetensors, the rest as JSON in its header. The file's name has the sha256 of its content.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import pathlib
import re
from dataclasses import dataclass, field
from typing import Any

import safetensors
import safetensors.torch
import torch

from luthierd.files import write_atomically

log = logging.getLogger(__name__)

KEPT = 2
"""The newest may be damaged after a disk fault; the one before it is the way out."""

GROUPS = ("weights", "best_weights", "optimizer", "rng")
"""Tensors in the file are named `<group>/<name>`."""

_FILE = re.compile(r"step-(\d{8})-([0-9a-f]{64})\.safetensors")


@dataclass
class RunState:
    """What the loop knows besides weights. The data position and the learning rate follow from `step`."""

    step: int = 0
    best_validation_loss: float = float("inf")
    best_step: int = 0
    stale_validations: int = 0
    """Validations since the best one."""
    last_loss: float = float("nan")


@dataclass(frozen=True)
class Checkpoint:
    """A restored run."""

    run: RunState
    weights: dict[str, torch.Tensor]
    best_weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    """By `<index of the parameter>.<name of the moment>`."""
    rng: dict[str, torch.Tensor] = field(default_factory=dict)


class CheckpointFolder:
    """The checkpoints of one job. `fingerprint` identifies the run: a file of another one is never resumed."""

    def __init__(self, folder: pathlib.Path, *, fingerprint: str, kept: int = KEPT) -> None:
        self._folder, self._fingerprint, self._kept = folder, fingerprint, kept

    def save(self, checkpoint: Checkpoint) -> pathlib.Path:
        """Writes the file, then removes those older than the last `kept`."""
        groups = {name: getattr(checkpoint, name) for name in GROUPS}
        tensors = {f"{group}/{name}": t.contiguous() for group, named in groups.items() for name, t in named.items()}
        header = {"run": json.dumps(dataclasses.asdict(checkpoint.run)), "fingerprint": self._fingerprint}
        content = safetensors.torch.save(tensors, metadata=header)
        digest = hashlib.sha256(content).hexdigest()
        path = self._folder / f"step-{checkpoint.run.step:08d}-{digest}.safetensors"
        write_atomically(path, iter([content]))
        for old in self._files()[: -self._kept]:
            old.unlink(missing_ok=True)
        return path

    def latest(self) -> Checkpoint | None:
        """The newest intact checkpoint of this very run, or None: the run then starts again."""
        for path in reversed(self._files()):
            try:
                if not _is_intact(path):
                    log.warning("a damaged checkpoint is passed over", extra={"path": str(path)})
                    continue
                with safetensors.safe_open(path, framework="pt") as file:
                    header = file.metadata() or {}
                    if header.get("fingerprint") != self._fingerprint:
                        continue
                    groups: dict[str, dict[str, torch.Tensor]] = {name: {} for name in GROUPS}
                    for key in file.keys():  # noqa: SIM118 - not a mapping
                        group, _, name = key.partition("/")
                        groups[group][name] = file.get_tensor(key)
            except (OSError, safetensors.SafetensorError):
                continue
            run = RunState(**json.loads(header["run"]))
            return Checkpoint(run, **groups)
        return None

    def _files(self) -> list[pathlib.Path]:
        return sorted(path for path in self._folder.glob("step-*.safetensors") if _FILE.fullmatch(path.name))


def _is_intact(path: pathlib.Path) -> bool:
    found = _FILE.fullmatch(path.name)
    with path.open("rb") as file:
        return found is not None and hashlib.file_digest(file, "sha256").hexdigest() == found[2]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's moments and step counts, by position of the parameter; empty before the first step."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor.clone() for index, named in state.items() for name, tensor in named.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `optimizer_tensors`."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def rng_tensors() -> dict[str, torch.Tensor]:
    """State of torch's generators, which decide dropout."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def load_rng_tensors(states: dict[str, torch.Tensor]) -> None:
    """The inverse of `rng_tensors`."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
