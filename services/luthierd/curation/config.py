"""Configuration of curation: `LUTHIER_CURATION_*`."""

from __future__ import annotations

from dataclasses import dataclass

from luthierd.config import ServerConfig


@dataclass(frozen=True, kw_only=True)
class CurationConfig(ServerConfig):
    """What curation needs beyond what every server needs."""

    max_row_bytes: int = 1024 * 1024
    """Longest line of an import."""
    max_row_count: int = 1_000_000
    """Most rows of an import; a worker holds them all in memory, about 2 kB each."""
    max_import_bytes: int = 4 * 1024 * 1024 * 1024
    """Most bytes of an import; they are spooled to the disk of `home`."""
