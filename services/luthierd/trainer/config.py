"""Configuration of the trainer: `LUTHIER_TRAINER_*`."""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass

from luthierd.config import ServerConfig


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(ServerConfig):
    """What the trainer needs beyond what every server needs."""

    import_roots: str = "~"
    """Folders from which base models may be imported, separated by `:`; each with all below it. Default: the
    home folder of the user who runs the trainer."""
    dataset_timeout_s: float = 10.0
    """How long curation may take to name a dataset revision's files."""

    @property
    def import_root_paths(self) -> tuple[pathlib.Path, ...]:
        """`import_roots`, resolved."""
        return tuple(pathlib.Path(root).expanduser().resolve() for root in self.import_roots.split(os.pathsep) if root)

    @property
    def checkpoints(self) -> pathlib.Path:
        """Folder of the checkpoints, one folder for each running job; it must survive a restart."""
        return self.home / "trainer/checkpoints"

    @property
    def scratch(self) -> pathlib.Path:
        """Folder of base models laid out for training, and of adapters before they are stored."""
        return self.home / "trainer/scratch"
