"""Curation's server: `python -m luthierd.curation`."""

from __future__ import annotations

from luthierd.curation.build import build
from luthierd.curation.config import CurationConfig
from luthierd.rpc.server import run_server

if __name__ == "__main__":
    run_server("curation", CurationConfig, build)
