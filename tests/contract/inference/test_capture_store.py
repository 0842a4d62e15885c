"""What is kept of answers, in both kinds of database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from luthierd.inference.build import VERSIONS
from luthierd.inference.domain.completion import Turn
from luthierd.inference.domain.feedback import (
    Captured,
    CapturePolicy,
    ExportFilter,
    FileKind,
    Opinion,
    PolicyChange,
    Rating,
    Response,
    Text,
)
from luthierd.inference.feedback.capture_files import new_file
from luthierd.inference.feedback.store import SqlCaptureStore
from luthierd.paging import PageRequest
from luthierd.storage.database import Database

TEXT = Text((Turn("user", "naïve \u2028 \x00 question"),), "answer")


@pytest.fixture
async def store(database_url: str, schema: str) -> AsyncIterator[SqlCaptureStore]:
    """A store in a fresh database."""
    database = Database(database_url, schema=schema)
    await database.migrate(VERSIONS)
    yield SqlCaptureStore(database)
    await database.close()


def response(name: str, *, time: float = 100.0) -> Response:
    return Response(
        response_id=name,
        tenant="acme",
        target="tenants/acme/deployments/d",
        loaded_adapter="g",
        deployment_revision=1,
        adapter_revision="tenants/acme/adapters/a/revisions/r1",
        base_model="baseModels/m",
        create_time=time,
        finish_reason="stop",
        prompt_token_count=1,
        completion_token_count=2,
        ttft_ms=1.0,
        latency_ms=2.0,
    )


async def test_texts_go_from_answer_to_file_to_export_and_are_deleted(store: SqlCaptureStore) -> None:
    on = CapturePolicy(tenant="acme").changed(PolicyChange(enabled=True, retention_s=60), 50.0)
    await store.put_policy(on)
    assert await store.policies() == {"acme": on}
    assert await store.add([Captured(response("r-1"), TEXT), Captured(response("r-2", time=101.0), None)]) == 1
    assert await store.waiting_tenants() == {"acme": (1, TEXT.character_count, 100.0)}
    assert await store.waiting("acme", limit=5) == [Captured(response("r-1"), TEXT)]
    assert await store.texts(["r-1", "r-2"]) == {"r-1": TEXT}
    file = new_file("acme", FileKind.PART, "a" * 64, size_bytes=9, row_count=1, create_time=110.0, oldest_time=100.0)
    await store.begin_file(file)
    assert await store.file(file.name) is None
    assert await store.end_part(file, ["r-1"])
    assert await store.file(file.name) == file
    assert not await store.end_part(file, ["r-1"])
    said = await store.put_feedback(response("r-1"), Opinion(rating=Rating.GOOD, labels=("a",)), 120.0)
    assert await store.feedback("acme", ExportFilter(rating=Rating.GOOD), limit=5) == [(said, file.name)]
    await store.expire(200.0, response_retention_s=50.0)
    assert await store.doomed() == [file]
    await store.forget_file(file.name)
    assert (await store.files("acme", None, PageRequest.parse(0, ""))).items == ()
    assert await store.response("acme", "r-2", since=0) is None


async def test_an_opt_out_and_an_answer_at_the_same_time_leave_no_text(store: SqlCaptureStore) -> None:
    policy = CapturePolicy(tenant="acme").changed(PolicyChange(enabled=True), 50.0)
    await store.put_policy(policy)
    for number in range(10):
        off = policy.changed(PolicyChange(enabled=False), 60.0)
        await asyncio.gather(store.add([Captured(response(f"r-{number}"), TEXT)]), store.put_policy(off))
        assert await store.waiting_tenants() == {}
        policy = off.changed(PolicyChange(enabled=True), 70.0)
        await store.put_policy(policy)
