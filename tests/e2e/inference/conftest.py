"""One server for all tests of this folder, and one with the other engine."""

from __future__ import annotations

import concurrent.futures
import contextlib
import pathlib
from collections.abc import Iterator

import grpc
import pytest
from inference_house import House, Trainer
from luthier.trainer.v1 import adapter_service_pb2_grpc, base_model_service_pb2_grpc


@contextlib.contextmanager
def running_house(folder: pathlib.Path, **settings: str) -> Iterator[House]:
    """A server of its own, with a stand-in for the trainer; `settings`: fields of `InferenceConfig`."""
    trainer = Trainer()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    adapter_service_pb2_grpc.add_AdapterServiceServicer_to_server(trainer, server)
    base_model_service_pb2_grpc.add_BaseModelServiceServicer_to_server(trainer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    made = House(folder, trainer, port, settings=settings)
    made.start()
    try:
        yield made
    finally:
        code = made.stop()
        server.stop(0)
    assert code == 0, made.log.read_text()[-2000:]


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The server, with the engine started."""
    with running_house(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture(scope="session")
def transformers_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server whose engine is transformers."""
    with running_house(tmp_path_factory.mktemp("transformers"), engine="transformers") as made:
        yield made
