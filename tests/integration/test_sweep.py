"""Sweeping what nothing needs, next to work that goes on."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import os
import pathlib
import time
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from luthier import errors
from luthier.cli import main
from luthierd.curation import deletion as curation_deletion
from luthierd.evaluator import deletion as evaluator_deletion
from luthierd.inference.deployments import references as inference_references
from luthierd.jobs.queue import JobQueue, JobState
from luthierd.storage.blobs import BlobStore
from luthierd.trainer import deletion as trainer_deletion
from support.installation import ACME, MODEL, Installation, installation

DOCS = f"{ACME}/datasets/docs"
SUPPORT = f"{ACME}/adapters/support"


@pytest.fixture
async def running(tmp_path: pathlib.Path) -> AsyncIterator[Installation]:
    async with installation(tmp_path) as found:
        yield found


async def sweep(running: Installation, service: str = "curation", *, validate_only: bool = False) -> dict[str, int]:
    swept = await running.client.storage.sweep(service, validate_only=validate_only)
    return {entry.kind: entry.size_bytes for entry in swept.freed}


def stored(running: Installation) -> set[str]:
    return {blob.sha256 for blob in running.blobs.list()}


async def test_only_old_blobs_that_nothing_needs_are_swept(running: Installation) -> None:
    await running.imported()
    adapter = await running.trained(await running.curated())
    kept = stored(running)
    await running.age()
    old = running.blobs.put_bytes(b"left by a worker that died")
    os.utime(running.home / "blobs" / old.sha256[:2] / old.sha256, (1.0, 1.0))
    young = running.blobs.put_bytes(b"just written")
    assert await sweep(running, validate_only=True) == {"blobs": old.size_bytes}
    assert old.sha256 in stored(running)
    assert await sweep(running) == {"blobs": old.size_bytes}
    assert stored(running) == kept | {young.sha256}
    assert adapter


async def test_what_is_deleted_goes_with_the_sweep_after_the_grace_period(running: Installation) -> None:
    await running.curated(text="a")
    await running.client.datasets.delete(DOCS, cascade=True)
    for path in (running.home / "blobs").glob("*/*"):
        os.utime(path, (1.0, 1.0))
    assert await sweep(running) == {}
    await running.age()
    assert (await sweep(running))["blobs"] > 0
    assert stored(running) == set()


async def test_an_operator_with_a_full_disk_can_shorten_the_grace_period(running: Installation) -> None:
    await running.curated(text="a")
    await running.client.datasets.delete(DOCS, cascade=True)
    await running.age(days=0.01)
    assert await sweep(running) == {}
    with pytest.raises(errors.InvalidArgumentError) as refused:
        await running.client.storage.sweep("curation", grace_s=59)
    assert refused.value.field_violations[0].field == "grace"
    await running.client.storage.sweep("curation", grace_s=60)
    assert stored(running) == set()


async def test_a_blob_of_two_revisions_stays_with_the_second(running: Installation) -> None:
    first, second = await running.curated("docs", "same"), await running.curated("docs-2", "same")
    before = stored(running)
    await running.client.datasets.delete_revision(first)
    await running.client.datasets.delete(DOCS)
    await running.age()
    assert await sweep(running) == {}
    assert stored(running) == before
    await running.client.datasets.delete(second.rpartition("/revisions/")[0], cascade=True)
    await running.age()
    await sweep(running)
    assert stored(running) == set()


async def test_a_job_keeps_what_it_reads(running: Installation) -> None:
    """Also if its dataset was deleted at the very moment it was created, which no service can forbid alone."""
    await running.imported()
    job = await running.queued(await running.curated())
    await running.databases["curation"].execute(sa.text("DELETE FROM datasets"), sa.text("DELETE FROM jobs"))
    await running.age()
    await sweep(running)
    dataset = (await running.queue("trainer").get(job)).payload["dataset"]
    assert {dataset["train_sha256"], dataset["validation_sha256"]} <= stored(running)
    await running.client.training_jobs.cancel(job)
    await sweep(running)
    assert dataset["train_sha256"] not in stored(running)


async def test_what_was_learned_and_found_stays_and_the_rows_of_a_deleted_dataset_do_not(running: Installation) -> None:
    await running.imported()
    revision = await running.curated()
    adapter = await running.trained(revision)
    await running.evaluated(adapter)
    rows = {split.sha256 for split in (await running.client.datasets.get_revision(revision)).splits}
    await running.client.datasets.delete(DOCS, cascade=True)
    await running.age()
    before = stored(running)
    await sweep(running)
    gone = before - stored(running)
    assert rows < gone
    assert (await running.client.adapters.get_revision(adapter)).sha256 in stored(running)


async def test_a_running_job_keeps_what_it_has_written_since_it_started(running: Installation) -> None:
    await running.imported()
    job = await running.queued(await running.curated())
    month_ago = JobQueue(running.databases["trainer"], lease_s=30.0, now=lambda: time.time() - 30 * 86400)
    lease = await month_ago.claim(job)
    assert lease
    blob = running.blobs.put_bytes(b"the first of many files")
    aged(running, blob.sha256, days=20)
    assert await sweep(running) == {}
    async with month_ago.finishing(lease, JobState.CANCELLED):
        pass
    assert await sweep(running) == {"blobs": blob.size_bytes}


def aged(running: Installation, sha256: str, *, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(running.home / "blobs" / sha256[:2] / sha256, (then, then))


async def test_imports_next_to_sweeps_of_the_same_content_lose_nothing(running: Installation) -> None:
    """Nothing needed this content for long; while sweeps delete it, others import it again."""
    rows = [[{"prompt": f"{number}?", "completion": "yes"}] for number in range(12)]
    for number, row in enumerate(rows):
        await running.client.datasets.import_rows(f"{ACME}/datasets/old-{number}", row)
        await running.client.datasets.delete(f"{ACME}/datasets/old-{number}")
    await running.age()

    async def import_again(number: int) -> str:
        found = await running.client.datasets.import_rows(f"{ACME}/datasets/new-{number}", rows[number])
        return found.source_sha256

    async def sweep_often() -> None:
        for _ in range(10):
            await sweep(running)

    *sources, _ = await asyncio.gather(*map(import_again, range(len(rows))), sweep_often())
    assert set(sources) <= stored(running)


def test_a_blob_that_is_stored_again_while_it_is_swept_is_there(tmp_path: pathlib.Path) -> None:
    store = BlobStore(f"file://{tmp_path / 'blobs'}")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for number in range(200):
            content = f"content {number}".encode()
            sha256 = store.put_bytes(content).sha256
            os.utime(tmp_path / "blobs" / sha256[:2] / sha256, (1.0, 1.0))
            deleting, storing = pool.submit(store.delete_older, sha256, 2.0), pool.submit(store.put_bytes, content)
            deleting.result(), storing.result()
            assert store.has(sha256), number


async def test_copies_and_work_that_nothing_needs_are_swept(running: Installation) -> None:
    await running.imported()
    revision = await running.curated()
    await running.deployed(await running.trained(revision))
    waiting = await running.queued(revision, "t2")
    live = (await running.client.adapters.get_revision(f"{SUPPORT}/revisions/r1")).sha256
    folders = {
        "inference": [f"inference/adapters/{live}", f"inference/adapters/{'0' * 64}"],
        "trainer": [f"trainer/checkpoints/{waiting}", f"trainer/checkpoints/{ACME}/trainingJobs/t1"],
    }
    for kept, swept in folders.values():
        for folder in (running.home / kept, running.home / swept):
            folder.mkdir(parents=True)
            (folder / "file").write_bytes(b"abc")
            for path in (folder / "file", folder):
                os.utime(path, (1.0, 1.0))
    (running.home / "trainer/scratch/base_models/x").mkdir(parents=True)
    (running.home / "trainer/scratch/base_models/x/file").write_bytes(b"abc")
    blob = next((running.home / "blobs").glob("*/*"))
    (running.home / "trainer/scratch/base_models/x/link").hardlink_to(blob)
    entries = (await running.client.storage.get("trainer")).entries
    by_name = {entry.name: entry.size_bytes for entry in entries if entry.kind in ("copies", "work")}
    assert by_name == {"trainer/scratch/base_models": 3, "trainer/checkpoints": 6}
    assert await sweep(running, "inference") == {"copies": 3}
    assert await sweep(running, "trainer") == {"work": 3}
    for kept, swept in folders.values():
        assert (running.home / kept / "file").exists()
        assert not (running.home / swept).exists()


async def test_old_events_and_logs_go_and_how_a_job_ended_stays(running: Installation) -> None:
    long_ago = JobQueue(running.databases["trainer"], lease_s=30.0, now=lambda: 1.0)
    await running.imported()
    job = await running.queued(await running.curated())
    lease = await long_ago.claim(job)
    assert lease
    await long_ago.emit(lease, [("progress", {"step": 1}), ("message", {"message": "checkpoint"})])
    async with long_ago.finishing(lease, JobState.CANCELLED):
        pass
    log = running.home / "logs/trainer-workers/old.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("last words")
    os.utime(log, (1.0, 1.0))
    assert await sweep(running, "trainer") == {"logs": 10}
    events = await long_ago.events(job, after_event_id=0)
    assert [event.kind for event in events] == ["state", "state", "state"]
    async with asyncio.timeout(10):
        assert [event.event_id async for event in running.client.training_jobs.watch(job)][-1] == events[-1].event_id


async def test_every_column_of_a_digest_is_a_root_or_known_to_need_no_blob(running: Installation) -> None:
    """A new table with blobs must say so, or its blobs are swept."""
    needless = {
        "retrieval_indexes.train_sha256": "the corpus' digest",
        "retrieval_indexes.embedder_sha256": "a model's digest",
        "retention_suites.base_model_sha256": "the base model is kept by its owner",
        "deployments.mirror_sha256": "one of the revisions that the deployment holds",
        "holdout_accesses.rows_sha256": "the ledger outlives what it counts",
        "holdout_accesses.adapter_sha256": "the ledger outlives what it counts",
        "parity_checks.sha256": "a result by digest; the deployment keeps the adapter",
        "tombstones.sha256": "its blobs are listed for the grace period",
    }
    roots = {
        f"{root.table}.{column}"
        for module in (curation_deletion, trainer_deletion, evaluator_deletion, inference_references)
        for root in module.ROOTS
        for column in root.columns
    }
    found = set()
    for database in running.databases.values():
        async with database.read() as tx:
            found |= await tx.run_sync(lambda connection: columns_of_digests(sa.inspect(connection)))
    assert found - roots == set(needless)


def columns_of_digests(tables: sa.Inspector) -> set[str]:
    return {
        f"{table}.{column['name']}"
        for table in tables.get_table_names()
        for column in tables.get_columns(table)
        if column["name"].endswith("sha256")
    }


async def test_the_command_shows_what_holds_the_disk_and_sweeps(
    running: Installation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await running.imported()
    await running.trained(await running.curated())
    await running.age()
    old = running.blobs.put_bytes(b"x" * 4096)
    aged(running, old.sha256, days=20)
    for variable in ("LUTHIER_ENDPOINT", "LUTHIER_TOKEN", "LUTHIER_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LUTHIER_HOME", str(running.home))
    monkeypatch.setenv("LUTHIER_TENANT", "acme")

    async def run(*arguments: str) -> str:
        assert await asyncio.to_thread(main.run, arguments) == 0
        return capsys.readouterr().out

    shown = await run("storage")
    for expected in (MODEL, f"{SUPPORT}/revisions/r1", f"{DOCS}/revisions/r1", "the next sweep frees", "4.0 KiB"):
        assert expected in shown
    assert "swept" in await run("storage", "--sweep")
    assert old.sha256 not in stored(running)
    assert "nothing to sweep" in await run("storage")


async def test_the_command_names_what_goes_and_asks(
    running: Installation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    revision = await running.curated()
    monkeypatch.setenv("LUTHIER_HOME", str(running.home))
    monkeypatch.setenv("LUTHIER_TENANT", "acme")

    async def run(*arguments: str) -> int:
        return await asyncio.to_thread(main.run, arguments)

    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert await run("dataset", "delete", "docs", "--cascade") == 130
    assert revision in capsys.readouterr().err
    assert (await running.client.datasets.get(DOCS)).latest_revision == revision
    assert await run("dataset", "delete", "docs/r1", "--yes") == 0
    assert capsys.readouterr().out == f"{revision}\n"
    assert await run("dataset", "delete", "docs", "--json") == 64
    assert await run("dataset", "delete", "docs", "--json", "--yes") == 0
    assert await run("jobs", "delete", revision, "--yes") == 65  # it is gone
