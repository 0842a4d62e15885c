"""Same `request_id`, same answer: done once, whoever asks again and however often."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from luthier.curation.v1 import dataset_service_pb2 as pb
from luthier.curation.v1 import dataset_service_pb2_grpc as rpc
from luthierd.config import ServerConfig
from luthierd.errors import UnavailableError
from luthierd.rpc.auth import current_principal
from luthierd.rpc.server import Service
from luthierd.storage.database import Database
from luthierd.storage.replays import SqlReplayStore
from support.scripted import scripted
from support.serving import bearer, error_info, running


class Curation:
    """Counts what it did: each run makes another revision."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.proceed = asyncio.Event()
        self.proceed.set()
        self.entered = asyncio.Event()
        self.fails = False

    async def curate(self, request: pb.CurateDatasetRequest, _context: object) -> pb.CurateDatasetResponse:
        self.entered.set()
        await self.proceed.wait()
        self.runs.append(current_principal().tenant)
        if self.fails:
            raise UnavailableError("try again")
        answer = pb.CurateDatasetResponse()
        answer.revision.name = f"{request.name}/revisions/r{len(self.runs)}"
        return answer


@pytest.fixture
def curation() -> Curation:
    return Curation()


@pytest.fixture
def service(database: Database, curation: Curation) -> Service:
    return scripted(behaviors={"CurateDataset": curation.curate}, replays=SqlReplayStore(database))


async def curate(channel: grpc.aio.Channel, request_id: str, *, tenant: str = "acme", dataset: str = "d") -> str:
    request = pb.CurateDatasetRequest(name=f"tenants/{tenant}/datasets/{dataset}", request_id=request_id)
    call: Any = rpc.DatasetServiceStub(channel).CurateDataset(request, metadata=bearer(tenant), timeout=10)
    answer: pb.CurateDatasetResponse = await call
    return answer.revision.name.rpartition("/")[2]


async def test_a_repeated_call_gets_the_first_answer(service: Service, curation: Curation) -> None:
    async with running(service, ServerConfig()) as channel:
        assert [await curate(channel, "one") for _ in range(3)] == ["r1", "r1", "r1"]
        assert await curate(channel, "two") == "r2"
    assert len(curation.runs) == 2


async def test_calls_without_an_id_are_each_done(service: Service) -> None:
    async with running(service, ServerConfig()) as channel:
        assert [await curate(channel, "") for _ in range(2)] == ["r1", "r2"]


async def test_the_first_answer_survives_a_restart(service: Service, curation: Curation) -> None:
    async with running(service, ServerConfig()) as channel:
        await curate(channel, "one")
    async with running(service, ServerConfig()) as channel:
        assert await curate(channel, "one") == "r1"
    assert len(curation.runs) == 1


async def test_duplicates_in_flight_run_once(service: Service, curation: Curation) -> None:
    curation.proceed.clear()
    async with running(service, ServerConfig()) as channel:
        calls = [asyncio.create_task(curate(channel, "one")) for _ in range(5)]
        await curation.entered.wait()
        curation.proceed.set()
        assert await asyncio.gather(*calls) == ["r1"] * 5
    assert len(curation.runs) == 1


async def test_an_id_used_for_another_request_is_refused(service: Service, curation: Curation) -> None:
    async with running(service, ServerConfig()) as channel:
        await curate(channel, "one")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await curate(channel, "one", dataset="other")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(caught.value).reason == "REQUEST_ID_REUSED"
    assert error_info(caught.value).metadata == {"request_id": "one"}
    assert len(curation.runs) == 1


async def test_ids_of_two_tenants_never_meet(service: Service, curation: Curation) -> None:
    async with running(service, ServerConfig()) as channel:
        assert await curate(channel, "one", tenant="acme") == "r1"
        assert await curate(channel, "one", tenant="rival") == "r2"
    assert curation.runs == ["acme", "rival"]


async def test_a_failure_is_not_kept(service: Service, curation: Curation) -> None:
    curation.fails = True
    async with running(service, ServerConfig()) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await curate(channel, "one")
        curation.fails = False
        assert await curate(channel, "one") == "r2"


async def test_a_caller_who_gives_up_leaves_the_work_to_the_next(service: Service, curation: Curation) -> None:
    curation.proceed.clear()
    async with running(service, ServerConfig()) as channel:
        first = asyncio.create_task(curate(channel, "one"))
        await curation.entered.wait()
        first.cancel()
        curation.proceed.set()
        assert await curate(channel, "one") in {"r1", "r2"}
        assert await curate(channel, "one") == f"r{len(curation.runs)}"


async def test_a_refused_caller_cannot_read_a_kept_answer(service: Service) -> None:
    request = pb.CurateDatasetRequest(name="tenants/acme/datasets/d", request_id="one")
    async with running(service, ServerConfig()) as channel:
        await curate(channel, "one")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc.DatasetServiceStub(channel).CurateDataset(request, metadata=bearer(scopes=("curation.read",)))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
