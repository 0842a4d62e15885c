"""The evaluator's server: `python -m luthierd.evaluator`."""

from __future__ import annotations

from luthierd.evaluator.build import build
from luthierd.evaluator.config import EvaluatorConfig
from luthierd.rpc.server import run_server

if __name__ == "__main__":
    run_server("evaluator", EvaluatorConfig, build)
