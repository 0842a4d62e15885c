"""A server that cannot start ends, and says why."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest
from luthierd.rpc.keys import create_keys

LIMIT_S = 60
"""The start takes about three seconds, most of them imports."""


@pytest.mark.parametrize("port", ["PORT", "METRICS_PORT"])
def test_a_port_that_somebody_else_has_ends_the_start_with_its_name(tmp_path: pathlib.Path, port: str) -> None:
    create_keys(tmp_path / "keys")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        environment = os.environ | {"LUTHIER_HOME": str(tmp_path), f"LUTHIER_INFERENCE_{port}": str(number)}
        done = subprocess.run(
            [sys.executable, "-m", "luthierd.inference"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    error = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, error["event"], error["reason"]) == (1, "error", "PORT_IN_USE")
    assert f"127.0.0.1:{number}" in error["message"]
