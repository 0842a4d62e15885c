"""Inference's server: `python -m luthierd.inference`."""

from __future__ import annotations

from luthierd.inference.build import build
from luthierd.inference.config import InferenceConfig
from luthierd.rpc.server import run_server

if __name__ == "__main__":
    run_server("inference", InferenceConfig, build)
