"""Our inference server for the benchmarks: a separate process, real sockets, a fake trainer."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Sequence

from luthier import AsyncClient, Endpoints
from support.inference_server import InferenceServer, running_server

TENANT = "bench"


def running(
    folder: pathlib.Path, model: pathlib.Path, **settings: object
) -> contextlib.AbstractContextManager[InferenceServer]:
    """A server with `model`, ready to answer; `settings` are fields of `InferenceConfig`."""
    folder.mkdir()
    return running_server(folder, base_model=model, **{"dtype": "auto", "max_adapter_bytes": 64 * 2**20, **settings})


def client(inference: InferenceServer) -> AsyncClient:
    """A client of the tenant `TENANT`."""
    return AsyncClient(Endpoints(inference=f"127.0.0.1:{inference.port}"), inference.token(TENANT))


def register(inference: InferenceServer, adapters: Sequence[pathlib.Path]) -> list[str]:
    """Names of adapter revisions with these weights."""
    name = f"tenants/{TENANT}/adapters/{{}}/revisions/r1"
    return [inference.register(name.format(path.name), path) for path in adapters]
