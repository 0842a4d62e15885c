"""Deletions over either database: what forbids them, what stays, and races with creations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from luthierd.errors import NotFoundError, UnavailableError
from luthierd.jobs.queue import JobNotFoundError, JobQueue, JobState
from luthierd.names import EVALUATION, PROMPT
from luthierd.storage.database import Database
from luthierd.storage.deletions import Deletions, ResourceInUseError, job_kind
from luthierd.storage.references import JOBS, Reference, References
from luthierd.storage.tombstones import NameRetiredError, ResourceDeletedError, Tombstones

ACME = "tenants/acme"
PROMPT_NAME = f"{ACME}/prompts/p"
KINDS = (job_kind(PROMPT, JobNotFoundError), job_kind(EVALUATION, JobNotFoundError))


def deletions(database: Database, **more: Any) -> Deletions:
    return Deletions(database, KINDS, References(database, [JOBS]), **more)


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return JobQueue(database, lease_s=30.0)


async def finished(queue: JobQueue, name: str = PROMPT_NAME, **payload: str) -> str:
    await queue.submit(name, "test", payload)
    lease = await queue.claim(name)
    assert lease
    async with queue.finishing(lease, JobState.SUCCEEDED, result={"sha256": "a" * 64, "other": "b" * 64}):
        pass
    return name


async def test_a_tombstone_keeps_the_digests(database: Database, queue: JobQueue) -> None:
    name = await finished(queue)
    await deletions(database, now=lambda: 100.0).delete(PROMPT, name, subject="ada")
    assert await Tombstones(database).blobs_since(99.0) == {"a" * 64, "b" * 64}
    assert await Tombstones(database).blobs_since(101.0) == set()
    assert await queue.events(name, after_event_id=0) == []
    error = await Tombstones(database).explain(NotFoundError("there is none", metadata={"prompt": name}), tenant="acme")
    assert (
        str(error)
        == f"there is none; it was deleted on 1970-01-01 00:01 UTC by ada; its content had the sha256 {'a' * 64}"
    )
    with pytest.raises(NameRetiredError):
        await queue.submit(name, "test", {})


async def test_nothing_new_refers_to_what_is_gone(database: Database, queue: JobQueue) -> None:
    await deletions(database).delete(PROMPT, await finished(queue), subject="ada")
    with pytest.raises(ResourceDeletedError):
        await queue.submit(f"{ACME}/evaluations/e", "test", {"config": {"prompts": [PROMPT_NAME]}})
    await queue.submit(f"{ACME}/evaluations/e", "test", {"purpose": f"without {PROMPT_NAME}"})


async def test_a_creation_and_a_deletion_never_both_succeed(database: Database, queue: JobQueue) -> None:
    for number in range(12):
        name = await finished(queue, f"{ACME}/prompts/p{number}")
        user = f"{ACME}/evaluations/e{number}"
        outcomes = await asyncio.gather(
            queue.submit(user, "test", {"prompt": name}),
            deletions(database).delete(PROMPT, name, subject="ada", cascade=True),
            return_exceptions=True,
        )
        errors = [type(one) for one in outcomes if isinstance(one, BaseException)]
        assert errors in ([ResourceInUseError], [ResourceDeletedError]), number


async def test_a_reference_of_another_service_counts_like_one_here(database: Database, queue: JobQueue) -> None:
    name = await finished(queue)
    asked: list[Sequence[str]] = []

    async def ask_peers(names: Sequence[str]) -> Sequence[Reference]:
        asked.append(names)
        return [Reference(f"{ACME}/deployments/d", name, needs_it=True)]

    with pytest.raises(ResourceInUseError, match="deployments/d"):
        await deletions(database, ask_peers=ask_peers).delete(PROMPT, name, subject="ada", cascade=True)
    assert asked == [[name]]

    async def away(_names: Sequence[str]) -> Sequence[Reference]:
        raise UnavailableError("no answer")

    with pytest.raises(UnavailableError):
        await deletions(database, ask_peers=away).delete(PROMPT, name, subject="ada")
    assert (await queue.get(name)).name == name


async def test_the_message_names_a_few_and_the_details_all(database: Database, queue: JobQueue) -> None:
    name = await finished(queue)
    for number in range(7):
        await finished(queue, f"{ACME}/evaluations/e{number}", prompt=name)
    with pytest.raises(ResourceInUseError, match=r"e0, .*e4 and 2 more") as refused:
        await deletions(database).delete(PROMPT, name, subject="ada")
    assert len(refused.value.subjects) == 7
    assert len((await deletions(database).delete(PROMPT, name, subject="ada", cascade=True)).kept) == 7


async def test_another_tenant_refers_to_nothing_of_mine(database: Database, queue: JobQueue) -> None:
    name = await finished(queue)
    await finished(queue, "tenants/other/evaluations/e", note=name)
    assert (await deletions(database).delete(PROMPT, name, subject="ada")).kept == ()


async def test_a_tenant_learns_nothing_of_what_another_one_deleted(database: Database, queue: JobQueue) -> None:
    await deletions(database).delete(PROMPT, await finished(queue), subject="ada")
    await queue.submit("tenants/rival/evaluations/e", "test", {"purpose": PROMPT_NAME})
    error = await Tombstones(database).explain(NotFoundError("none", metadata={"prompt": PROMPT_NAME}), tenant="rival")
    assert str(error) == "none"
