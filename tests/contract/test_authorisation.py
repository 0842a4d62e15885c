"""Who may call what: every RPC of every service against every kind of wrong caller, generated from the descriptors.

A refused call never reaches its handler, so that the answer cannot depend on what exists.
"""

from __future__ import annotations

import contextlib
import importlib
import pathlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from luthier.services import SCOPES
from luthierd.config import ServerConfig
from luthierd.rpc.server import Service
from support.contracts import METHODS, Path, input_paths, methods_of, reference_of, scope_of
from support.fuzzing import answers, put
from support.serving import VERIFIER, bearer, error_info, running
from support.strangers import STRANGERS
from support.worlds import WORLDS

OF_ALL_TENANTS = "trainer.luthier.dev/BaseModel"


class Everything:
    """All methods of all services, which note that they were reached and answer with nothing."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    def service(self) -> Service:
        return Service(name="everything", servicers=list(self._servicers()), verifier=VERIFIER)

    def _servicers(self) -> Iterator[object]:
        by_service: dict[Any, list[MethodDescriptor]] = {}
        for method in METHODS:
            by_service.setdefault(method.containing_service, []).append(method)
        for described, methods in by_service.items():
            module = importlib.import_module(described.file.name.removesuffix(".proto").replace("/", ".") + "_pb2_grpc")
            servicer = getattr(module, f"{described.name}Servicer")()
            for method in methods:
                setattr(servicer, method.name, self._behavior(method))
            yield servicer

    def _behavior(self, method: MethodDescriptor) -> Any:
        answer = message_factory.GetMessageClass(method.output_type)

        async def once(request: Any, _context: object) -> Any:
            if method.client_streaming:
                async for _ in request:
                    self.reached.append(method.full_name)
            else:
                self.reached.append(method.full_name)
            return answer()

        async def many(request: Any, context: object) -> AsyncIterator[Any]:
            yield await once(request, context)

        return many if method.server_streaming else once


def tenant_paths(method: MethodDescriptor) -> list[Path]:
    """The fields that name something of a tenant."""
    found = [path for path in input_paths(method.input_type) if reference_of(path[-1])]
    return [path for path in found if reference_of(path[-1]).rstrip("/") != OF_ALL_TENANTS]


async def refusal(
    channel: grpc.aio.Channel, method: MethodDescriptor, request: Any = None, *, metadata: Any
) -> grpc.aio.AioRpcError | None:
    """How the call is refused; None if it is answered."""
    request = request or message_factory.GetMessageClass(method.input_type)()
    try:
        async with contextlib.aclosing(
            answers(channel, method, [request.SerializeToString()], metadata=metadata)
        ) as found:
            async for _ in found:
                return None
    except grpc.aio.AioRpcError as error:
        return error
    return None


@contextlib.asynccontextmanager
async def everything() -> AsyncIterator[tuple[Everything, grpc.aio.Channel]]:
    served = Everything()
    async with running(served.service(), ServerConfig()) as channel:
        yield served, channel


@pytest.mark.parametrize("header", STRANGERS.values(), ids=STRANGERS.keys())
async def test_no_method_answers_a_stranger(header: str | None) -> None:
    metadata = () if header is None else (("authorization", header),)
    async with everything() as (served, channel):
        found = [await refusal(channel, method, metadata=metadata) for method in METHODS]
    assert {error and (error.code().name, error_info(error).reason) for error in found} == {
        ("UNAUTHENTICATED", "UNAUTHENTICATED")
    }
    assert served.reached == []


async def test_no_method_answers_a_token_with_every_scope_but_its_own() -> None:
    async with everything() as (served, channel):
        for method in METHODS:
            others = tuple(scope for scope in SCOPES if scope != scope_of(method))
            error = await refusal(channel, method, metadata=bearer(scopes=others))
            assert error is not None, method.full_name
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED, method.full_name
            assert error_info(error).metadata["scope"] == scope_of(method)
    assert served.reached == []


async def test_every_method_answers_a_token_with_its_scope_alone() -> None:
    """Without this, the tests above could pass on a server that refuses everything."""
    async with everything() as (served, channel):
        for method in METHODS:
            assert await refusal(channel, method, metadata=bearer(scopes=(scope_of(method),))) is None
    assert served.reached == [method.full_name for method in METHODS]


async def test_no_method_takes_another_tenants_name_in_any_of_its_fields() -> None:
    asked = 0
    async with everything() as (served, channel):
        for method in METHODS:
            for path in tenant_paths(method):
                for name in ("tenants/rival/datasets/d", "tenants/rival", "tenants/", "tenants/acme2/adapters/a"):
                    request = message_factory.GetMessageClass(method.input_type)()
                    put(request, path, [name] if path[-1].is_repeated else name)
                    error = await refusal(channel, method, request, metadata=bearer(scopes=SCOPES))
                    assert error is not None, (method.full_name, path[-1].name, name)
                    assert error.code() is grpc.StatusCode.PERMISSION_DENIED, (method.full_name, path[-1].name)
                    asked += 1
    assert served.reached == []
    assert asked > 4 * 60


@pytest.mark.parametrize("service", WORLDS)
async def test_the_answer_to_another_tenant_does_not_depend_on_what_exists(
    service: str, tmp_path: pathlib.Path
) -> None:
    rival = bearer("rival", scopes=SCOPES)
    async with WORLDS[service](tmp_path) as world:
        for method in methods_of(service):
            for path in tenant_paths(method):
                said = set()
                exists = world.names.get(reference_of(path[-1]), "tenants/acme")
                for name in (exists, f"{exists}x"):
                    request = message_factory.GetMessageClass(method.input_type)()
                    put(request, path, [name] if path[-1].is_repeated else name)
                    error = await refusal(world.channel, method, request, metadata=rival)
                    assert error is not None, method.full_name
                    said.add((error.code(), (error.details() or "").replace(name, "NAME")))
                assert {code for code, _ in said} == {grpc.StatusCode.PERMISSION_DENIED}, method.full_name
                assert len(said) == 1, method.full_name
