"""Why the plugin exists: stock vLLM gives rows without an adapter the last slot's; `test_parity.py` has ours.

When this fails, vLLM has mended it: the plugin may go, once the tests of parity and of serving pass without it.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest
from support import tiny_model

pytestmark = pytest.mark.e2e

SCRIPT = pathlib.Path(__file__).parent / "batch_script.py"
TIMEOUT_S = 240


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A base model and two adapters that fill the two slots."""
    folder = tmp_path_factory.mktemp("stock")
    adapters = [tiny_model.write_adapter(folder / name, seed=seed) for name, seed in (("a", 1), ("b", 2))]
    return [str(path) for path in (tiny_model.write_base_model(folder / "base"), *adapters)]


def answers_of_stock(folders: list[str]) -> dict[str, list[str]]:
    """What an engine without plugins says."""
    environment = os.environ | {"VLLM_PLUGINS": ""}
    command = [sys.executable, str(SCRIPT), *folders]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_stock_vllm_answers_for_the_base_with_an_adapter_when_they_share_a_batch(folders: list[str]) -> None:
    found = answers_of_stock(folders)
    assert len(set(found["alone"])) == 3
    assert found["together"][0] != found["alone"][0]
