"""The trainer's server: `python -m luthierd.trainer`."""

from __future__ import annotations

from luthierd.rpc.server import run_server
from luthierd.trainer.build import build
from luthierd.trainer.config import TrainerConfig

if __name__ == "__main__":
    run_server("trainer", TrainerConfig, build)
