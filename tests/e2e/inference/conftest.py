"""One server for all tests of this folder, and one with the other engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.inference_server import InferenceServer, running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServer]:
    """The server, which starts its engine when it is asked. Adapters of every common rank can be loaded."""
    with running_server(tmp_path_factory.mktemp("server"), max_lora_rank="64") as made:
        yield made


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServer]:
    """A server with places for two adapters."""
    folder = tmp_path_factory.mktemp("small")
    with running_server(folder, max_cpu_loras="2", max_loras="2", max_unheld_adapters="1") as made:
        yield made


@pytest.fixture(scope="session")
def transformers_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServer]:
    """A server whose engine is transformers."""
    with running_server(tmp_path_factory.mktemp("transformers"), engine="transformers") as made:
        yield made
