"""A training whose disk fills up waits, and continues from its last checkpoint once there is room."""

from __future__ import annotations

import asyncio
import pathlib
from typing import Any

import pytest
from luthierd.jobs import worker
from luthierd.jobs.queue import JobQueue, JobState
from luthierd.jobs.worker import JobContext, Outcome, run_job
from luthierd.storage.database import Database
from luthierd.trainer.domain.training import TrainingProgress
from support.databases import NO_VERSIONS
from support.full_disk import small_disk
from support.training_runs import CONFIG, Recorder, run

JOB = "tenants/acme/trainingJobs/t1"


class Reported(Recorder):
    """Fills the disk after `fills_after` steps, once; tells the job what people read."""

    def __init__(self, context: JobContext, fill: Any, *, fills_after: int) -> None:
        super().__init__()
        self._context, self._fill, self._fills_after = context, fill, fills_after

    def progress(self, progress: TrainingProgress) -> None:
        super().progress(progress)
        if progress.step == self._fills_after:
            self._fill()

    def message(self, text: str) -> None:
        self._context.emit("message", {"message": text})


async def test_a_training_that_met_a_full_disk_resumes_without_a_new_attempt(
    tiny_llama: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'jobs.db'}", schema="jobs")
    await database.migrate(NO_VERSIONS)
    queue = JobQueue(database, lease_s=15)
    await queue.submit(JOB, "train", {})
    reports: list[Reported] = []
    expected = Recorder()
    run(tiny_llama, tmp_path / "undisturbed", expected)

    with small_disk(tmp_path / "disk") as disk:

        async def make_room(*_: object, **__: object) -> None:
            disk.free()

        async def work(context: JobContext) -> Outcome:
            fills_after = 5 if not reports else 0
            reports.append(Reported(context, disk.fill, fills_after=fills_after))
            await asyncio.to_thread(run, tiny_llama, disk.folder / "checkpoints", reports[-1], config=CONFIG)
            return Outcome({})

        monkeypatch.setattr(worker._Frame, "_pause", make_room)
        await run_job(queue, JOB, work)

    job = await queue.get(JOB)
    assert (job.state, job.attempt_count) == (JobState.SUCCEEDED, 1)
    told = [event.data["message"] for event in await queue.events(JOB, after_event_id=0) if event.kind == "message"]
    assert told[0].startswith("waiting, then continuing by itself: no room on the disk of")
    assert told[1:] == ["resumed after step 3 of 15"]
    assert reports[0].losses[:3] + reports[1].losses == expected.losses
    await database.close()
