"""What is imported when: the SDK with gRPC alone, servers and command line without a model library."""

from __future__ import annotations

import subprocess
import sys

import pytest
from luthier.services import SERVICES

HEAVY = (
    "torch",
    "vllm",
    "transformers",
    "peft",
    "presidio_analyzer",
    "spacy",
    "ragas",
    "faiss",
    "sentence_transformers",
)


def python(code: str) -> str:
    """The output of a fresh interpreter; AssertionError with its trace if it fails."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sdk_needs_grpc_and_protobuf_only() -> None:
    python("""
import sys

class OnlyThese:
    allowed = {*sys.stdlib_module_names, "grpc", "google", "luthier", "typing_extensions"}  # the last is grpc's

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in self.allowed and not top.startswith("_cython"):
            raise ModuleNotFoundError(f"{name} must not be needed", name=name)

sys.meta_path.insert(0, OnlyThese())
import luthier
luthier.AsyncClient, luthier.Client
""")


@pytest.mark.parametrize(
    "module", [*(f"luthierd.{name}.__main__" for name in SERVICES), "luthier.cli.main", "luthierd.supervisor"]
)
def test_no_model_library_is_loaded_before_it_is_used(module: str) -> None:
    loaded = python(f"import sys, {module}; print(*sys.modules)").split()
    assert set(HEAVY) & {name.partition(".")[0] for name in loaded} == set()
