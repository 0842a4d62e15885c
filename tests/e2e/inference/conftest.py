"""One server for all tests of this folder, and one with the other engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.inference_house import House, running_house


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The server, which starts its engine when it is asked. Adapters of every common rank can be loaded."""
    with running_house(tmp_path_factory.mktemp("house"), max_lora_rank="64") as made:
        yield made


@pytest.fixture(scope="module")
def small_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server with places for two adapters."""
    folder = tmp_path_factory.mktemp("small")
    with running_house(folder, max_cpu_loras="2", max_loras="2", max_unheld_adapters="1") as made:
        yield made


@pytest.fixture(scope="session")
def transformers_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server whose engine is transformers."""
    with running_house(tmp_path_factory.mktemp("transformers"), engine="transformers") as made:
        yield made
