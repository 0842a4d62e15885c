"""Luthier: the Python SDK.

    async with luthier.AsyncClient(tenant="acme") as client:
        answer = await client.inference.chat("tenants/acme/deployments/support", "How do I reset it?")

Needs grpcio, protobuf and googleapis-common-protos only. Names load when they are first used, so that the command
line can print its help without gRPC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthier import names as names
    from luthier.client import AsyncClient as AsyncClient
    from luthier.endpoints import Endpoints as Endpoints
    from luthier.endpoints import TlsOptions as TlsOptions
    from luthier.errors import LuthierError as LuthierError
    from luthier.sync import Client as Client
    from luthier.transport import RetryPolicy as RetryPolicy

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "luthier.client",
    "Client": "luthier.sync",
    "Endpoints": "luthier.endpoints",
    "LuthierError": "luthier.errors",
    "RetryPolicy": "luthier.transport",
    "TlsOptions": "luthier.endpoints",
}
_MODULES = {"config_files", "errors", "names", "profiles", "tokens"}

__all__ = ["AsyncClient", "Client", "Endpoints", "LuthierError", "RetryPolicy", "TlsOptions", "__version__", "names"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"luthier.{name}")
    raise AttributeError(f"module 'luthier' has no attribute {name!r}")
