from __future__ import annotations

import pathlib

import pytest
from tiny_model import write_base_model


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_base_model(tmp_path_factory.mktemp("tiny"))
