"""One server for all tests of this folder."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator

import grpc
import pytest
from inference_house import House, Trainer
from luthier.trainer.v1 import adapter_service_pb2_grpc, base_model_service_pb2_grpc


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The server, with the engine started."""
    trainer = Trainer()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    adapter_service_pb2_grpc.add_AdapterServiceServicer_to_server(trainer, server)
    base_model_service_pb2_grpc.add_BaseModelServiceServicer_to_server(trainer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    made = House(tmp_path_factory.mktemp("house"), trainer, port)
    made.start()
    try:
        yield made
    finally:
        code = made.stop()
        server.stop(0)
    assert code == 0, made.log.read_text()[-2000:]
