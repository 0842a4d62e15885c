"""Deleting over four services that refer to each other, on real sockets."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator

import pytest
from luthier import errors
from luthierd.evaluator.decisions.holdout_ledger import HoldoutAccess
from luthierd.evaluator.decisions.holdout_store import SqlLedger
from luthierd.jobs.queue import JobNotFoundError, JobState
from support.installation import ACME, MODEL, Installation, installation

DOCS = f"{ACME}/datasets/docs"
SUPPORT = f"{ACME}/adapters/support"


@pytest.fixture
async def running(tmp_path: pathlib.Path) -> AsyncIterator[Installation]:
    async with installation(tmp_path) as found:
        yield found


async def test_a_dataset_goes_with_its_revisions_and_is_gone(running: Installation) -> None:
    revision = await running.curated()
    with pytest.raises(errors.FailedPreconditionError, match=r"docs/revisions/r1") as refused:
        await running.client.datasets.delete(DOCS)
    assert refused.value.reason == "RESOURCE_IN_USE"
    assert [one.subject for one in refused.value.precondition_violations] == [revision]
    deleted = await running.client.datasets.delete(DOCS, cascade=True)
    assert deleted.deleted == (DOCS, revision)
    for get, name in ((running.client.datasets.get, DOCS), (running.client.datasets.get_revision, revision)):
        with pytest.raises(errors.NotFoundError, match=r"deleted on .* by ada") as gone:
            await get(name)
        assert gone.value.metadata["sha256"]


async def test_a_preview_deletes_nothing(running: Installation) -> None:
    revision = await running.curated()
    planned = await running.client.datasets.delete(DOCS, cascade=True, validate_only=True)
    assert planned.deleted == (DOCS, revision)
    assert (await running.client.datasets.get(DOCS)).latest_revision == revision


async def test_an_old_etag_forbids_the_deletion(running: Installation) -> None:
    revision = await running.curated()
    etag = (await running.client.datasets.get(DOCS)).etag
    await running.client.datasets.delete_revision(revision)
    with pytest.raises(errors.AbortedError):
        await running.client.datasets.delete(DOCS, etag=etag)
    assert (await running.client.datasets.delete(DOCS)).deleted == (DOCS,)


async def test_the_newest_that_is_left_is_the_latest_and_no_number_is_used_twice(
    running: Installation,
) -> None:
    first, second = await running.curated(text="a"), await running.curated(text="b")
    await running.client.datasets.delete_revision(second)
    assert (await running.client.datasets.get(DOCS)).latest_revision == first
    await running.client.datasets.delete(DOCS, cascade=True)
    assert await running.curated(text="c") == f"{DOCS}/revisions/r3"


async def test_a_training_job_that_waits_keeps_its_dataset(running: Installation) -> None:
    await running.imported()
    revision = await running.curated()
    job = await running.queued(revision)
    for cascade in (False, True):
        with pytest.raises(errors.FailedPreconditionError, match=job):
            await running.client.datasets.delete_revision(revision, cascade=cascade)
    with pytest.raises(errors.FailedPreconditionError) as refused:
        await running.client.training_jobs.delete(job)
    assert refused.value.reason == "JOB_NOT_FINISHED"
    await running.client.training_jobs.cancel(job)
    assert (await running.client.datasets.delete_revision(revision, cascade=True)).kept == (job,)


async def test_an_adapter_outlives_its_dataset_and_its_lineage_stays_explained(running: Installation) -> None:
    await running.imported()
    revision = await running.curated()
    adapter = await running.trained(revision)
    with pytest.raises(errors.FailedPreconditionError, match=adapter):
        await running.client.datasets.delete_revision(revision)
    deleted = await running.client.datasets.delete(DOCS, cascade=True)
    assert set(deleted.kept) == {adapter, f"{ACME}/trainingJobs/t1"}
    found = await running.client.adapters.get_revision(adapter)
    with pytest.raises(errors.NotFoundError) as gone:
        await running.client.datasets.get_revision(found.dataset_revision)
    assert gone.value.metadata["sha256"] == found.dataset_sha256


async def test_a_deployment_keeps_its_adapter_and_base_model(running: Installation) -> None:
    await running.imported()
    adapter = await running.trained(await running.curated())
    deployment = await running.deployed(adapter)
    for delete, name in (
        (running.client.adapters.delete_revision, adapter),
        (running.client.adapters.delete, SUPPORT),
        (running.client.base_models.delete, MODEL),
    ):
        with pytest.raises(errors.FailedPreconditionError) as refused:
            await delete(name, cascade=True)
        assert deployment in [one.subject for one in refused.value.precondition_violations]
    assert (await running.client.adapters.get_revision(adapter)).name == adapter


async def test_an_adapter_goes_with_its_revisions_once_evaluations_have_ended(running: Installation) -> None:
    await running.imported()
    adapter = await running.trained(await running.curated())
    evaluation = await running.evaluated(adapter, "e1", is_finished=False)
    with pytest.raises(errors.FailedPreconditionError, match=evaluation):
        await running.client.adapters.delete(SUPPORT, cascade=True)
    await running.queue("evaluator").cancel(evaluation)
    deleted = await running.client.adapters.delete(SUPPORT, cascade=True)
    assert deleted.deleted == (SUPPORT, adapter)
    assert evaluation in deleted.kept
    assert [one.name async for one in running.client.adapters.list(ACME)] == []
    assert await running.trained(f"{DOCS}/revisions/r1", "t2") == f"{SUPPORT}/revisions/r2"


async def test_the_latest_adapter_revision_is_the_newest_that_is_left(running: Installation) -> None:
    await running.imported()
    revision = await running.curated()
    first, second = await running.trained(revision, "t1"), await running.trained(revision, "t2")
    await running.client.adapters.delete_revision(second)
    [adapter] = [one async for one in running.client.adapters.list(ACME)]
    assert adapter.latest_revision == first
    await running.client.adapters.delete_revision(first)
    [adapter] = [one async for one in running.client.adapters.list(ACME)]
    assert adapter.latest_revision == ""


async def test_a_base_model_stays_while_an_adapter_of_anyone_needs_it(running: Installation) -> None:
    await running.imported()
    adapter = await running.trained(await running.curated())
    with pytest.raises(errors.FailedPreconditionError, match=adapter):
        await running.client.base_models.delete(MODEL, cascade=True)
    await running.client.adapters.delete(SUPPORT, cascade=True)
    assert (await running.client.base_models.delete(MODEL, cascade=True)).deleted == (MODEL,)
    with pytest.raises(errors.NotFoundError, match="deleted on"):
        await running.client.base_models.get(MODEL)
    await running.imported()  # the same again
    assert (await running.client.base_models.get(MODEL)).name == MODEL


async def test_a_base_model_that_is_being_imported_stays_and_one_that_failed_goes(running: Installation) -> None:
    (running.home / "broken").mkdir()
    await running.client.base_models.import_model("broken", path=running.home / "broken")
    name = "baseModels/broken"
    with pytest.raises(errors.FailedPreconditionError, match=f"{name}/imports/"):
        await running.client.base_models.delete(name, cascade=True)
    queue = running.queue("trainer")
    [job] = await queue.claimable(5)
    lease = await queue.claim(job)
    assert lease
    async with queue.finishing(lease, JobState.FAILED, error={"code": "INVALID_ARGUMENT"}):
        pass
    assert (await running.client.base_models.delete(name)).deleted == (name,)
    with pytest.raises(JobNotFoundError):
        await queue.get(job)


async def test_a_deleted_base_model_gives_its_name_to_no_other(running: Installation) -> None:
    await running.imported()
    await running.client.base_models.delete(MODEL, cascade=True)
    with pytest.raises(Exception, match="cannot be used again"):
        await running.imported(weights=b"other weights")


async def test_a_deleted_job_gives_its_name_to_no_other(running: Installation) -> None:
    await running.imported()
    revision = await running.curated()
    adapter = await running.trained(revision)
    with pytest.raises(errors.FailedPreconditionError, match=adapter):
        await running.client.training_jobs.delete(f"{ACME}/trainingJobs/t1")
    await running.client.training_jobs.delete(f"{ACME}/trainingJobs/t1", cascade=True)
    with pytest.raises(errors.AlreadyExistsError) as refused:
        await running.queued(revision)
    assert refused.value.reason == "NAME_RETIRED"


async def test_nothing_goes_while_a_service_that_may_refer_to_it_is_away(running: Installation) -> None:
    revision = await running.curated()
    await running.stop("evaluator")
    outcomes = await asyncio.gather(
        running.client.datasets.delete_revision(revision, timeout_s=4),
        running.client.storage.sweep("curation", timeout_s=4),
        return_exceptions=True,
    )
    assert [type(one) for one in outcomes] == [errors.UnavailableError] * 2
    assert all("evaluator" in str(one) for one in outcomes)
    assert (await running.client.datasets.get_revision(revision)).name == revision


async def test_another_tenants_name_is_refused_before_it_is_looked_for(running: Installation) -> None:
    for delete in (running.client.datasets.delete, running.client.adapters.delete, running.client.evaluations.delete):
        with pytest.raises(errors.PermissionDeniedError):
            await delete("tenants/other/datasets/docs")


async def test_a_name_of_another_form_is_refused_by_its_field(running: Installation) -> None:
    await running.curated()
    for name in ("", DOCS, f"{DOCS}/revisions/r1/", f"{DOCS}/revisions/%"):
        with pytest.raises(errors.InvalidArgumentError) as refused:
            await running.client.datasets.delete_revision(name, cascade=True)
        assert refused.value.field_violations[0].field == "name"
    assert (await running.client.datasets.get(DOCS)).name == DOCS


async def test_names_that_only_begin_alike_do_not_refer_to_each_other(running: Installation) -> None:
    await running.imported()
    await running.queued(await running.curated("docs-2"))
    await running.curated("docs")
    assert (await running.client.datasets.delete(DOCS, cascade=True)).kept == ()


async def test_the_ledger_of_a_holdout_outlives_an_evaluation(running: Installation) -> None:
    evaluation = await running.evaluated(f"{SUPPORT}/revisions/r1")
    ledger = SqlLedger(running.databases["evaluator"])
    access = HoldoutAccess(
        id=evaluation,
        tenant="acme",
        rows_sha256="7" * 64,
        is_final=False,
        evaluation=evaluation,
        adapter_revision=f"{SUPPORT}/revisions/r1",
        adapter_sha256="8" * 64,
        subject="ada",
        row_count=3,
        create_time=1.0,
        purpose="",
    )
    await ledger.record(access)
    assert (await running.client.evaluations.delete(evaluation)).deleted == (evaluation,)
    assert (await ledger.counts("acme", "7" * 64)).open == 1


async def test_a_deletion_and_a_job_that_starts_at_the_same_moment_do_not_cross(running: Installation) -> None:
    """Whoever is first wins: either the job keeps the base model, or it is told that there is none."""
    await running.imported()
    revision = await running.curated()
    outcomes = await asyncio.gather(
        running.queued(revision),
        running.client.base_models.delete(MODEL, cascade=True),
        return_exceptions=True,
    )
    kinds = {type(one) for one in outcomes if isinstance(one, Exception)}
    assert kinds in ({errors.FailedPreconditionError}, {errors.NotFoundError})


async def test_a_service_answers_for_itself_what_it_refers_to(running: Installation) -> None:
    await running.imported()
    revision = await running.curated()
    adapter = await running.trained(revision)
    found = await running.client.storage.references("trainer", [revision, MODEL])
    assert {(one.referrer, one.name, one.needs_it) for one in found} >= {
        (adapter, revision, False),
        (adapter, MODEL, True),
        (f"{ACME}/trainingJobs/t1", revision, False),
    }
    with pytest.raises(errors.InvalidArgumentError):
        await running.client.storage.references("trainer", [])
