"""Our inference server for the benchmarks: its own process, real sockets, a stand-in for the trainer."""

from __future__ import annotations

import concurrent.futures
import contextlib
import pathlib
from collections.abc import Iterator, Sequence

import grpc
from inference_house import House, Trainer
from luthier import AsyncClient, Endpoints
from luthier.trainer.v1 import adapter_service_pb2_grpc, base_model_service_pb2_grpc

TENANT = "bench"


@contextlib.contextmanager
def running(folder: pathlib.Path, model: pathlib.Path, **settings: object) -> Iterator[House]:
    """A server on `model`, ready to be asked; `settings` by field of `InferenceConfig`."""
    trainer = Trainer()
    beside = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    adapter_service_pb2_grpc.add_AdapterServiceServicer_to_server(trainer, beside)
    base_model_service_pb2_grpc.add_BaseModelServiceServicer_to_server(trainer, beside)
    port = beside.add_insecure_port("127.0.0.1:0")
    beside.start()
    folder.mkdir()
    house = House(folder, trainer, port, base_model=model, settings={"dtype": "auto", **settings})
    house.start()
    try:
        yield house
    finally:
        house.stop()
        beside.stop(0)


def client(house: House) -> AsyncClient:
    """A client of the tenant `TENANT`."""
    return AsyncClient(Endpoints(inference=f"127.0.0.1:{house.port}"), house.token(TENANT))


def register(house: House, adapters: Sequence[pathlib.Path]) -> list[str]:
    """Names of adapter revisions with these weights."""
    name = f"tenants/{TENANT}/adapters/{{}}/revisions/r1"
    return [house.register(name.format(path.name), path) for path in adapters]
