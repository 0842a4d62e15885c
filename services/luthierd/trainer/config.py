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

    max_upload_bytes: int = 4 * 1024 * 1024 * 1024
    """Size of a tenant's files that wait for their import, together."""

    @property
    def import_root_paths(self) -> tuple[pathlib.Path, ...]:
        """`import_roots`, resolved."""
        return tuple(pathlib.Path(root).expanduser().resolve() for root in self.import_roots.split(os.pathsep) if root)

    @property
    def checkpoints(self) -> pathlib.Path:
        """Folder of the checkpoints, one folder for each running job; it must survive a restart."""
        return self.home / "trainer/checkpoints"

    @property
    def uploads(self) -> pathlib.Path:
        """Folder of files that wait for their import."""
        return self.home / "trainer/uploads"

    @property
    def scratch(self) -> pathlib.Path:
        """Folder of base models laid out for training, and of adapters before they are stored."""
        return self.home / "trainer/scratch"
