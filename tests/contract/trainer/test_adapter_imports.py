"""`AdapterImportService` over real sockets, with the SDK as its caller; no worker runs, so that imports stay QUEUED."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import luthier
import pytest
from luthier import errors
from luthier.trainer.v1 import adapter_import_pb2 as pb
from luthier.trainer.v1 import adapter_import_service_pb2 as api
from luthier.trainer.v1.adapter_import_service_pb2_grpc import AdapterImportServiceStub
from luthierd.jobs.queue import JobQueue, JobState
from luthierd.rpc.keys import create_keys
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.trainer.build import build
from luthierd.trainer.config import TrainerConfig
from luthierd.trainer.domain.base_model import BaseModelInfo
from luthierd.trainer.store import add_adapter_revision, set_base_model_info
from support.serving import VERIFIER, bearer, error_info, serving

ACME, MODEL, ADAPTER = "tenants/acme", "baseModels/tiny", "tenants/acme/adapters/support"
LIMIT_BYTES = 3 * 2**20
INFO = BaseModelInfo(
    sha256="a" * 64,
    tokenizer_sha256="b" * 64,
    chat_template_sha256="c" * 64,
    architecture="LlamaForCausalLM",
    parameter_count=5,
    context_window_tokens=512,
    size_bytes=9,
)


class Trainer:
    """A served trainer with a READY model, as callers and workers see it."""

    def __init__(self, address: str, channel: grpc.aio.Channel, queue: JobQueue, home: pathlib.Path) -> None:
        self.stub, self.queue, self.home, self.address = AdapterImportServiceStub(channel), queue, home, address

    def client(self, tenant: str = "acme") -> luthier.AsyncClient:
        token = bearer(tenant)[0][1].removeprefix("Bearer ")
        return luthier.AsyncClient(luthier.Endpoints(trainer=self.address), token)

    async def write(
        self, content: bytes, *, offset: int = 0, data: bytes | None = None, tenant: str = "acme", **fields: Any
    ) -> int:
        """Writes a piece of a file with this content, by default all of it."""
        values = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)} | fields
        request = api.WriteAdapterFileRequest(
            parent=f"tenants/{tenant}", offset_bytes=offset, data=content[offset:] if data is None else data, **values
        )
        return (await self.stub.WriteAdapterFile(request, metadata=bearer(tenant), timeout=5)).committed_bytes

    async def create(self, files: dict[str, str], tenant: str = "acme", **fields: str) -> pb.AdapterImport:
        wanted = pb.AdapterImport(
            **{"adapter": f"tenants/{tenant}/adapters/support", "base_model": MODEL} | fields,
            files=[pb.AdapterFile(path=path, sha256=sha256) for path, sha256 in files.items()],
        )
        request = api.CreateAdapterImportRequest(parent=f"tenants/{tenant}", adapter_import=wanted)
        answer = await self.stub.CreateAdapterImport(request, metadata=bearer(tenant), timeout=5)
        return answer.adapter_import


@pytest.fixture
async def trainer(tmp_path: pathlib.Path) -> AsyncIterator[Trainer]:
    config = TrainerConfig(home=tmp_path, worker_count=0, import_roots=str(tmp_path), max_upload_bytes=LIMIT_BYTES)
    database = Database.of(config, "trainer")
    create_keys(tmp_path / "keys")
    service = await build(config, database=database, verifier=VERIFIER)
    async with serving(service, config) as bound, grpc.aio.insecure_channel(bound.address) as channel:
        queue = JobQueue(database, lease_s=30.0)
        made = Trainer(bound.address, channel, queue, tmp_path)
        async with made.client() as client:
            await client.base_models.import_model("tiny", path=tmp_path)
        (job,) = await queue.claimable(1)
        lease = await queue.claim(job)
        assert lease
        async with queue.finishing(lease, JobState.SUCCEEDED) as tx:
            await set_base_model_info(tx, MODEL, INFO)
        yield made


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Files with the names of an adapter's, one of them of several pieces."""
    made = tmp_path / "peft"
    made.mkdir()
    (made / "adapter_config.json").write_bytes(b"{}")
    (made / "adapter_model.safetensors").write_bytes(os.urandom(2 * 2**20 + 7))
    (made / "optimizer.pt").write_bytes(b"not ours")
    return made


def sha256_of(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), error_info(caught.value).reason, caught.value.details() or ""


async def test_a_folder_is_sent_and_its_import_queued(trainer: Trainer, folder: pathlib.Path) -> None:
    sent: list[tuple[str, int, int]] = []
    async with trainer.client() as client:
        made = await client.adapter_imports.create(
            ADAPTER, folder, base_model=MODEL, on_sent=lambda *one: sent.append(one)
        )
        assert made.state == pb.ADAPTER_IMPORT_STATE_QUEUED
        assert (made.adapter, made.base_model, made.subject) == (ADAPTER, MODEL, "tester")
        assert {file.path: file.sha256 for file in made.files} == {
            name: sha256_of(folder / name) for name in ("adapter_config.json", "adapter_model.safetensors")
        }
        assert [one async for one in client.adapter_imports.list(ACME)] == [made]
        assert await client.adapter_imports.get(made.name) == made
    blobs = BlobStore(f"file://{trainer.home / 'blobs'}")
    assert all(blobs.has(file.sha256) for file in made.files)
    assert sent[-1][1:] == (2 * 2**20 + 7,) * 2
    assert list((trainer.home / "trainer/uploads/acme").iterdir()) == []


async def test_an_upload_goes_on_where_it_stopped(trainer: Trainer, folder: pathlib.Path) -> None:
    content = (folder / "adapter_model.safetensors").read_bytes()
    assert await trainer.write(content, data=content[: 2**20]) == 2**20
    assert await trainer.write(content, data=content[: 2**20]) == 2**20  # the answer was lost, the piece came again
    assert await trainer.write(content, offset=2**20 + 5, data=b"ahead") == 2**20
    sent: list[int] = []
    async with trainer.client() as client:
        await client.adapter_imports.create(
            ADAPTER, folder, base_model=MODEL, on_sent=lambda name, held, size: sent.append(held)
        )
    assert sent[1] > 2**20  # the first is the config
    assert len(sent) == 1 + 3


async def test_bytes_with_another_digest_are_dropped(trainer: Trainer) -> None:
    code, reason, _ = await refusal(trainer.write(b"right", data=b"wrong"))
    assert (code, reason) == (grpc.StatusCode.DATA_LOSS, "ADAPTER_FILE_DAMAGED")
    assert await trainer.write(b"right", data=b"") == 0
    assert await trainer.write(b"right") == 5


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"sha256": "A" * 64}, "sha256"),
        ({"sha256": "../../x"}, "sha256"),
        ({"sha256": ""}, "sha256"),
        ({"size_bytes": 0}, "size_bytes"),
        ({"size_bytes": -(2**63)}, "size_bytes"),
        ({"offset_bytes": -1}, "offset_bytes"),
        ({"offset_bytes": 2**63 - 1}, "offset_bytes"),
        ({"data": b"x" * (2**20 + 1), "size_bytes": 2**21}, "data"),
    ],
)
async def test_a_piece_that_fits_nowhere_is_refused(trainer: Trainer, fields: dict[str, Any], field: str) -> None:
    values = {"sha256": "a" * 64, "size_bytes": 5, "data": b"hello"} | fields
    request = api.WriteAdapterFileRequest(parent=ACME, **values)
    code, _, message = await refusal(trainer.stub.WriteAdapterFile(request, metadata=bearer(), timeout=5))
    assert (code, message.split(":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_a_tenants_files_are_limited_together(trainer: Trainer) -> None:
    await trainer.write(b"a" * 2**20)
    code, reason, _ = await refusal(trainer.write(b"b" * LIMIT_BYTES, data=b""))  # announced, not yet sent
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ADAPTER_UPLOADS_FULL")
    assert await trainer.write(b"b" * 2**20, tenant="globex") == 2**20
    for number in range(63):
        await trainer.write(b"%d" % number)
    assert (await refusal(trainer.write(b"one more")))[1] == "ADAPTER_UPLOADS_FULL"


async def test_a_file_that_nobody_imports_is_deleted_after_a_day(trainer: Trainer) -> None:
    await trainer.write(b"old", data=b"o")
    await trainer.write(b"forgotten")
    for file in (trainer.home / "trainer/uploads/acme").iterdir():
        os.utime(file, (1, 1))
    await trainer.write(b"new", tenant="globex")
    assert list((trainer.home / "trainer/uploads/acme").iterdir()) == []


async def test_a_tenant_cannot_import_what_another_sent(trainer: Trainer) -> None:
    files = {}
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        await trainer.write(name.encode())
        files[name] = hashlib.sha256(name.encode()).hexdigest()
    code, reason, _ = await refusal(trainer.create(files, tenant="globex"))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_FILE_MISSING")
    assert (await refusal(trainer.create(files, tenant="globex", adapter=ADAPTER)))[1] == "PERMISSION_DENIED"
    made = await trainer.create(files)
    assert made.state == pb.ADAPTER_IMPORT_STATE_QUEUED
    async with trainer.client("globex") as other:
        with pytest.raises(errors.PermissionDeniedError):
            await other.adapter_imports.get(made.name)
        assert await trainer.write(b"adapter_config.json", data=b"", tenant="globex") == 0  # not: "we have that"


@pytest.mark.parametrize(
    ("files", "reason", "words"),
    [
        ({}, "ADAPTER_FILE_MISSING", "adapter_config.json, adapter_model.safetensors"),
        ({"adapter_config.json": "1"}, "ADAPTER_FILE_MISSING", "lacks adapter_model.safetensors"),
        ({"adapter_model.bin": "1"}, "ADAPTER_FILE_FORBIDDEN", "safe_serialization=True"),
        ({"../adapter_config.json": "1"}, "ADAPTER_FILE_FORBIDDEN", "an adapter has"),
        ({"modeling.py": "1"}, "ADAPTER_FILE_FORBIDDEN", "an adapter has"),
    ],
)
async def test_files_that_make_no_adapter_are_refused(
    trainer: Trainer, files: dict[str, str], reason: str, words: str
) -> None:
    _, found, message = await refusal(trainer.create(files))
    assert found == reason
    assert words in message


async def test_an_import_is_cancelled_and_unknown_ones_are_named(trainer: Trainer, folder: pathlib.Path) -> None:
    async with trainer.client() as client:
        made = await client.adapter_imports.create(ADAPTER, folder, base_model=MODEL, adapter_import_id="mine")
        assert made.name == f"{ACME}/adapterImports/mine"
        cancelled = await client.adapter_imports.cancel(made.name)
        assert cancelled.state == pb.ADAPTER_IMPORT_STATE_CANCELLED
        with pytest.raises(errors.JobCancelledError):
            await client.adapter_imports.wait(made.name)
        with pytest.raises(errors.NotFoundError) as caught:
            await client.adapter_imports.get(f"{ACME}/adapterImports/none")
        assert caught.value.reason == "ADAPTER_IMPORT_NOT_FOUND"
        with pytest.raises(errors.NotFoundError):
            await client.adapter_imports.create(ADAPTER, folder, base_model="baseModels/none")


async def test_a_finished_import_shows_its_revision_and_its_notes(trainer: Trainer, folder: pathlib.Path) -> None:
    async with trainer.client() as client:
        made = await client.adapter_imports.create(ADAPTER, folder, base_model=MODEL)
        lease = await trainer.queue.claim(made.name)
        assert lease
        content: dict[str, Any] = {"size_bytes": 3, "base_model": MODEL, "base_model_sha256": INFO.sha256}
        content |= {"dataset_revision": "", "dataset_sha256": "", "rank": 4, "target_modules": ["q_proj"]}
        content |= {"validation_loss": None, "source_sha256": made.source_sha256}
        result: dict[str, Any] = {"notes": ["left out lm_head.weight"]}
        async with trainer.queue.finishing(lease, JobState.SUCCEEDED, result=result) as tx:
            result["adapter_revision"] = await add_adapter_revision(
                tx, ADAPTER, job=made.name, sha256="9" * 64, content=content, now=1.0
            )
        done = await client.adapter_imports.wait(made.name)
        assert (done.adapter_revision, list(done.notes)) == (f"{ADAPTER}/revisions/r1", ["left out lm_head.weight"])
        events = [event async for event in client.adapter_imports.watch(made.name)]
        assert events[-1].state == pb.ADAPTER_IMPORT_STATE_SUCCEEDED
        revision = await client.adapters.get_revision(done.adapter_revision)
        assert (revision.adapter_import, revision.training_job) == (made.name, "")
        assert revision.source_sha256 == made.source_sha256


async def test_a_folder_without_safetensors_is_refused_before_anything_is_sent(
    trainer: Trainer, folder: pathlib.Path
) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    async with trainer.client() as client:
        with pytest.raises(errors.InvalidArgumentError, match=r"adapter_model\.bin is a pickle.*safe_serialization"):
            await client.adapter_imports.create(ADAPTER, folder, base_model=MODEL)
    assert not (trainer.home / "trainer/uploads").exists()
