"""Import, curate, list, show and export through a real server process, a real worker process and the SDK."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import pathlib
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from luthier.client import AsyncClient
from luthier.curation.v1 import dataset_pb2 as pb
from luthier.endpoints import Endpoints
from luthier.errors import DataLossError, JobCancelledError, JobFailedError
from luthierd.config import ServerConfig
from luthierd.curation.build import build
from luthierd.curation.config import CurationConfig
from luthierd.rpc.auth import TokenIssuer
from luthierd.rpc.keys import create_keys
from support.serving import serving
from support.waiting import until

DATASET = "tenants/acme/datasets/mails"
WAIT_S = 120.0


def rows(count: int) -> list[dict[str, str]]:
    """Rows in groups of four, every fifth with a mail address, then a duplicate, a near duplicate and an untidy row."""
    made = [
        {
            "id": f"row-{i}",
            "group": f"g{i // 4}",
            "label": f"l{i % 2}",
            "prompt": f"Customer {i} asks about parcel {i * 7919} of order {i * 104729} in depot {i * 31}"
            + (f", write to person{i}@example.com" if i % 5 == 0 else ""),
            "completion": f"Parcel {i * 7919} left depot {i * 31} on truck {i * 13}.",
        }
        for i in range(count)
    ]
    last = made[-1]
    words = " ".join(f"word{i}" for i in range(60))
    return [
        *made,
        {**last, "id": "copy"},
        {**last, "id": "long", "prompt": words, "completion": "Sixty words."},
        {**last, "id": "alike", "prompt": words + " more", "completion": "Sixty words."},
        {**last, "id": "untidy", "prompt": "Tidy\u200b this up? \r\n\r\n\r\nYes.", "completion": "Done."},
    ]


@dataclass
class House:
    """An installation of curation alone."""

    config: CurationConfig
    client: AsyncClient

    async def worker_pid(self) -> int:
        """The process id of a worker that has begun, from the process table: the launcher does not tell."""
        return await until(lambda: asyncio.to_thread(_pid_of_worker, self.config.home), timeout_s=WAIT_S)


def _pid_of_worker(home: pathlib.Path) -> int | None:
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"luthierd.curation.worker" in words and str(home).encode() in (folder / "environ").read_bytes():
                return int(folder.name)
    return None


@pytest.fixture
async def house(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    monkeypatch.setenv("LUTHIER_CURATION_LEASE_S", "5")
    create_keys(tmp_path / "keys")
    config = CurationConfig(home=tmp_path, lease_s=5.0)
    token = TokenIssuer.of(config).issue(tenant="acme", subject="tester")
    service = await build(config)
    async with (
        serving(service, config) as bound,
        AsyncClient(Endpoints(curation=bound.address), token=token) as client,
    ):
        yield House(config, client)


async def test_rows_go_in_and_come_out_curated_split_and_explained(house: House) -> None:
    datasets, given = house.client.datasets, rows(80)
    imported = await datasets.import_rows(DATASET, given)
    assert imported.row_count == len(given)
    begun = await datasets.curate(DATASET)
    stages = [event.progress.stage async for event in datasets.watch_revision(begun.name) if event.HasField("progress")]
    assert list(dict.fromkeys(stages)) == ["clean", "exact_duplicates", "pii", "near_duplicates", "split"]
    revision = await datasets.wait_revision(begun.name, timeout_s=WAIT_S)

    assert revision.state == pb.DATASET_REVISION_STATE_READY
    assert (await datasets.get(DATASET)).latest_revision == revision.name
    assert [found.name async for found in datasets.list_revisions(DATASET)] == [revision.name]
    by_stage = {one.stage: one for one in revision.stages}
    assert dict(by_stage["exact_duplicates"].reason_counts) == {"same_messages": 1}
    assert dict(by_stage["near_duplicates"].reason_counts) == {"near_duplicate": 1}
    assert dict(by_stage["pii"].reason_counts) == {"masked_EMAIL_ADDRESS": 16}
    assert dict(by_stage["clean"].reason_counts) == {"text_normalised": 1}

    groups: dict[str, str] = {}
    ids: list[str] = []
    for file in revision.splits:
        data = b"".join([piece async for piece in datasets.read_split(revision.name, file.split)])
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (file.sha256, file.size_bytes)
        assert b"@example.com" not in data
        found: list[dict[str, Any]] = [json.loads(line) for line in data.splitlines()]
        assert len(found) == file.row_count > 0
        for row in found:
            assert groups.setdefault(row["group"], pb.Split.Name(file.split)) == pb.Split.Name(file.split)
            assert set(row) == {"id", "group", "label", "messages"}
            assert row["messages"][-1]["role"] == "assistant"
        ids += [row["id"] for row in found]
    assert sorted(ids) == sorted(row["id"] for row in given if row["id"] not in {"copy", "alike"})

    sheet = await datasets.datasheet(revision.name)
    assert sheet["source"] == {"sha256": imported.source_sha256, "row_count": len(given)}
    assert sheet["pii"]["found"]["EMAIL_ADDRESS"]["row_count"] == 16
    assert "near_duplicate" in sheet["page_markdown"]
    assert "person5" not in json.dumps(sheet)

    train = next(file.sha256 for file in revision.splits if file.split == pb.SPLIT_TRAIN)
    path = house.config.home / "blobs" / train[:2] / train
    path.write_bytes(path.read_bytes().replace(b"Parcel", b"Barrel", 1))
    with pytest.raises(DataLossError, match=f"the train split of {revision.name}") as caught:
        _ = [piece async for piece in datasets.read_split(revision.name, pb.SPLIT_TRAIN)]
    assert caught.value.reason == "BLOB_CORRUPT"


async def test_a_killed_worker_is_replaced_and_the_revision_is_the_same(house: House) -> None:
    datasets = house.client.datasets
    await datasets.import_rows(DATASET, rows(200))
    begun = await datasets.curate(DATASET)
    seen = asyncio.Event()

    async def follow() -> None:
        async for event in datasets.watch_revision(begun.name):
            if event.progress.stage == "pii" and event.progress.done_row_count > 0:
                seen.set()

    watching = asyncio.create_task(follow())
    first = await house.worker_pid()
    async with asyncio.timeout(WAIT_S):
        await seen.wait()
    os.kill(first, signal.SIGKILL)
    killed = await datasets.wait_revision(begun.name, timeout_s=WAIT_S)
    await watching
    again = await datasets.curate(DATASET)
    whole = await datasets.wait_revision(again.name, timeout_s=WAIT_S)
    assert killed.state == pb.DATASET_REVISION_STATE_READY
    assert killed.sha256 == whole.sha256
    assert (await datasets.get(DATASET)).latest_revision == whole.name


async def test_a_cancel_ends_a_curation_within_seconds_even_while_it_loads_its_models(house: House) -> None:
    datasets = house.client.datasets
    await datasets.import_rows(DATASET, rows(8))
    begun = await datasets.curate(DATASET)
    async for event in datasets.watch_revision(begun.name):
        if event.HasField("progress"):  # the first one; then the stages are made, which takes longer and hears nothing
            break
    async with asyncio.timeout(5):
        answer = await datasets.cancel_revision(begun.name)
        assert answer.state == pb.DATASET_REVISION_STATE_CANCELLING
        with pytest.raises(JobCancelledError):
            await datasets.wait_revision(begun.name, timeout_s=WAIT_S)
    assert (await datasets.get(DATASET)).latest_revision == ""


@pytest.mark.parametrize(
    ("count", "recipe", "reason"),
    [
        (1, {}, "SPLIT_WOULD_BE_EMPTY"),
        (9, {"clean": {"min_completion_characters": 9000}}, "CURATION_DROPPED_ALL_ROWS"),
        (9, {"pii": {"entities": ["EMIAL_ADDRESS"]}}, "RECIPE_INVALID"),
    ],
)
async def test_a_curation_that_cannot_end_well_says_why(
    house: House, count: int, recipe: dict[str, dict[str, Any]], reason: str
) -> None:
    datasets = house.client.datasets
    await datasets.import_rows(DATASET, [{**row, "group": "one"} for row in rows(count)])
    stages = [pb.CurationStage(stage=name, settings=settings) for name, settings in recipe.items()]
    chosen = pb.CurationRecipe(stages=[*stages, pb.CurationStage(stage="split")]) if stages else None
    begun = await datasets.curate(DATASET, recipe=chosen)
    with pytest.raises(JobFailedError):
        await datasets.wait_revision(begun.name, timeout_s=WAIT_S)
    failed = await datasets.get_revision(begun.name)
    assert failed.state == pb.DATASET_REVISION_STATE_FAILED
    assert reason.encode() in failed.error.SerializeToString()
    assert (await datasets.get(DATASET)).latest_revision == ""


async def test_the_server_process_says_what_is_missing(tmp_path: pathlib.Path) -> None:
    environment = os.environ | {"LUTHIER_HOME": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "luthierd.curation", env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, output = await asyncio.wait_for(process.communicate(), WAIT_S)
    last = json.loads(output.decode().strip().splitlines()[-1])
    assert process.returncode == 1
    assert (last["event"], last["reason"]) == ("error", "KEY_UNREADABLE")


async def start_server(home: pathlib.Path) -> tuple[asyncio.subprocess.Process, int]:
    """The server as `luthier up` starts it, and its port, which its first log line tells."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "luthierd.curation", stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    assert process.stderr is not None
    async with asyncio.timeout(WAIT_S):
        async for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "started":
                return process, int(event["port"])
    raise AssertionError("the server did not start")


async def test_a_killed_server_loses_no_acknowledged_curation(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    monkeypatch.setenv("LUTHIER_CURATION_LEASE_S", "5")
    create_keys(tmp_path / "keys")
    token = TokenIssuer.of(ServerConfig(home=tmp_path)).issue(tenant="acme", subject="tester")
    process, port = await start_server(tmp_path)
    async with AsyncClient(Endpoints(curation=f"127.0.0.1:{port}"), token=token) as client:
        await client.datasets.import_rows(DATASET, rows(40))
        begun = await client.datasets.curate(DATASET)
    process.kill()
    await process.wait()
    process, port = await start_server(tmp_path)
    try:
        async with AsyncClient(Endpoints(curation=f"127.0.0.1:{port}"), token=token) as client:
            revision = await client.datasets.wait_revision(begun.name, timeout_s=WAIT_S)
            assert revision.state == pb.DATASET_REVISION_STATE_READY
            assert (await client.datasets.get(DATASET)).latest_revision == revision.name
    finally:
        process.terminate()
        assert await process.wait() == 0
