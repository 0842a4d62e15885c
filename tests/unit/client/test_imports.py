"""`import luthier` needs grpcio, protobuf and googleapis-common-protos only."""

from __future__ import annotations

import subprocess
import sys

PROBE = """
import sys

class OnlyTheThree:
    allowed = {"luthier", "grpc", "google", "typing_extensions"}  # the last is grpcio's own
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in self.allowed and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(f"blocked: {name}")

sys.meta_path.insert(0, OnlyTheThree())
import luthier
import luthier.config_files, luthier.profiles, luthier.tokens
luthier.AsyncClient(luthier.Endpoints.from_host("localhost"), "token")
luthier.Client, luthier.LuthierError, luthier.RetryPolicy, luthier.names, luthier.errors
"""


def test_the_sdk_imports_with_its_three_dependencies_only():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_alone_loads_no_grpc():
    probe = "import sys, luthier; assert 'grpc' not in sys.modules and 'google.protobuf' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
