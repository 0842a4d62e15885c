"""What the contract says of each method in `luthier.options.v1.call`: required scope and longest time for a call."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from luthier.options.v1 import call_policy_pb2
from luthier.services import SCOPES

from luthierd.config import ConfigError

Context = grpc.aio.ServicerContext[Any, Any]
"""The second argument of a servicer's method."""

DEFAULT_LIMIT_S = 60.0
"""For methods without `limit`; documented in call_policy.proto."""


@dataclass(frozen=True)
class Method:
    """A method, its required scope, and the longest time for a call; 0: no limit."""

    name: str
    scope: str
    limit_s: float


def methods_of(services: Iterable[ServiceDescriptor]) -> dict[str, Method]:
    """Every method by its path, `/luthier.trainer.v1.AdapterService/ListAdapters`. ConfigError for an unknown scope."""
    found = {}
    for service in services:
        for method in service.methods:
            policy = method.GetOptions().Extensions[call_policy_pb2.call]
            if policy.scope not in SCOPES:
                raise ConfigError(
                    f"{method.full_name} requires the scope {policy.scope!r}, which no token can carry; choose one of "
                    f"{', '.join(SCOPES)}",
                    metadata={"method": method.full_name, "scope": policy.scope},
                )
            limit_s = policy.limit.ToTimedelta().total_seconds() if policy.HasField("limit") else DEFAULT_LIMIT_S
            found[f"/{service.full_name}/{method.name}"] = Method(method.name, policy.scope, limit_s)
    return found


def services_of(servicer: object) -> list[ServiceDescriptor]:
    """The services that `servicer` implements. A package has the name of its folder (buf STANDARD)."""
    pool = descriptor_pool.Default()
    return [
        pool.FindServiceByName(f"{base.__module__.rpartition('.')[0]}.{base.__name__.removesuffix('Servicer')}")
        for base in _generated_bases(servicer)
    ]


def add_to_server(servicer: object, server: grpc.aio.Server) -> None:
    """Registers `servicer` with the functions generated for its services."""
    for base in _generated_bases(servicer):
        getattr(sys.modules[base.__module__], f"add_{base.__name__}_to_server")(servicer, server)


def _generated_bases(servicer: object) -> list[type]:
    return [base for base in type(servicer).__mro__ if base.__module__.endswith("_pb2_grpc")]
