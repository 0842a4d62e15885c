"""Configuration of the trainer: `LUTHIER_TRAINER_*`."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

from luthierd.config import ServerConfig


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(ServerConfig):
    """What the trainer needs beyond what every server needs."""

    import_roots: str = "~"
    """Folders, separated by colons, below which `luthier model import --path` may read."""
    thread_count: int = 0
    """Threads of a training worker; 0: all cores that the process may use."""

    @property
    def roots(self) -> tuple[pathlib.Path, ...]:
        """`import_roots` as absolute folders."""
        return tuple(pathlib.Path(root).expanduser().resolve() for root in self.import_roots.split(":") if root)

    @property
    def work(self) -> pathlib.Path:
        """Checkpoints and checked-out models of the workers of this machine."""
        return self.home / "work/trainer"
