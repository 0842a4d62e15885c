"""What is kept of answers: nothing that was not allowed, nothing twice, nothing too long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pyarrow.parquet as pq
import pytest
from luthierd.errors import NotFoundError
from luthierd.inference import metrics
from luthierd.inference.domain.completion import Finish, Origin, ToolCall, Turn
from luthierd.inference.domain.errors import EtagMismatchError, ExportOvertakenError, ResponseNotFoundError
from luthierd.inference.domain.feedback import (
    Captured,
    CaptureFile,
    CapturePolicy,
    ExportFilter,
    FileKind,
    Opinion,
    PolicyChange,
    Rating,
)
from luthierd.inference.feedback import response_log
from luthierd.inference.feedback.capture_parquet import read_texts
from luthierd.inference.feedback.response_log import ResponseLog
from support.capture_parts import START, CaptureParts, make_capture_parts, over

POLICY, ACME = "tenants/acme/capturePolicy", "tenants/acme"
DEPLOYMENT = "tenants/acme/deployments/support"
ORIGIN = Origin(
    loaded_adapter="g-1",
    deployment_revision=3,
    adapter_revision="tenants/acme/adapters/a/revisions/r1",
    base_model="baseModels/m",
)
FINISH = Finish(finish_reason="stop", prompt_token_count=5, completion_token_count=7, ttft_ms=1.5, latency_ms=9.0)
PROMPT = (Turn("system", "be brief"), Turn("user", "I am ada@example.org"))
ON = PolicyChange(enabled=True)


@pytest.fixture
async def parts() -> AsyncIterator[CaptureParts]:
    made = await make_capture_parts()
    yield made
    await made.close()


async def answer(
    parts: CaptureParts,
    response_id: str,
    *,
    tenant: str = "acme",
    text: str = "call (212) 555-0187",
    is_whole: bool = True,
    prompt: tuple[Turn, ...] = PROMPT,
) -> None:
    """An answer in two parts, written to the store."""
    with parts.capturing.responses.recording(
        response_id, tenant=tenant, target=DEPLOYMENT, origin=ORIGIN, prompt=prompt
    ) as recording:
        recording.add(text[:4])
        recording.add(text[4:])
        if is_whole:
            recording.finish(FINISH)
    await parts.capturing.responses.flush()


async def texts(parts: CaptureParts, *response_ids: str) -> dict[str, object]:
    return dict(await parts.store.texts(response_ids))


async def part_files(parts: CaptureParts, tenant: str = "acme") -> list[CaptureFile]:
    return list((await parts.capturing.files.list(f"tenants/{tenant}", FileKind.PART, 0, "")).items)


def rows(parts: CaptureParts, file: CaptureFile) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(parts.blobs.local_path(file.sha256)).to_pylist()
    return found


async def test_without_a_policy_only_metadata_is_kept(parts: CaptureParts) -> None:
    await answer(parts, "r-1")
    kept = await parts.store.response("acme", "r-1", since=0)
    assert kept is not None
    assert (kept.loaded_adapter, kept.completion_token_count, kept.create_time) == ("g-1", 7, START)
    assert await texts(parts, "r-1") == {}
    assert await parts.store.waiting_tenants() == {}


async def test_texts_are_redacted_before_they_are_written(parts: CaptureParts) -> None:
    await parts.capturing.policies.update(POLICY, ON)
    await answer(parts, "r-1")
    kept = (await parts.store.texts(["r-1"]))["r-1"]
    assert kept.messages == (Turn("system", "be brief"), Turn("user", "I am <EMAIL_ADDRESS>"))
    assert kept.completion == "call <PHONE_NUMBER>"
    assert b"ada@example" not in b"".join(path.read_bytes() for path in parts.folder.glob("inference.db*"))


async def test_calls_and_answers_of_tools_are_kept_redacted_and_come_back_from_the_file(parts: CaptureParts) -> None:
    await parts.capturing.policies.update(POLICY, ON)
    call = ToolCall("c1", "write_to", '{"to": "ada@example.org"}')
    prompt = (
        Turn("user", "hi", name="ada"),
        Turn("assistant", "", tool_calls=(call,)),
        Turn("tool", "sent to ada@example.org", tool_call_id="c1"),
    )
    kept = (
        prompt[0],
        Turn("assistant", "", tool_calls=(call._replace(arguments='{"to": "<EMAIL_ADDRESS>"}'),)),
        Turn("tool", "sent to <EMAIL_ADDRESS>", tool_call_id="c1"),
    )
    await answer(parts, "r-1", prompt=prompt)
    assert (await parts.store.texts(["r-1"]))["r-1"].messages == kept
    parts.clock.now += 300
    await parts.capturing.files.write_due()
    (file,) = await part_files(parts)
    assert read_texts(parts.blobs.read_bytes(file.sha256), ["r-1"])["r-1"].messages == kept


async def test_one_tenant_opting_in_captures_nothing_of_another(parts: CaptureParts) -> None:
    await parts.capturing.policies.update(POLICY, ON)
    await answer(parts, "r-1", tenant="beta")
    assert await texts(parts, "r-1") == {}


async def test_an_aborted_answer_can_be_spoken_about_and_is_not_captured(parts: CaptureParts) -> None:
    await parts.capturing.policies.update(POLICY, ON)
    await answer(parts, "r-1", is_whole=False)
    kept = await parts.store.response("acme", "r-1", since=0)
    assert kept is not None
    assert kept.finish_reason == "aborted"
    assert await texts(parts, "r-1") == {}


async def test_the_sample_rate_takes_its_share_and_the_same_one_everywhere() -> None:
    policy = CapturePolicy(tenant="acme", enabled=True, sample_rate=0.25)
    taken = [number for number in range(4000) if policy.takes(f"r-{number}")]
    assert 900 < len(taken) < 1100
    assert taken == [number for number in range(4000) if policy.takes(f"r-{number}")]


async def test_a_shadow_answer_is_captured_if_its_live_one_is_and_names_it(parts: CaptureParts) -> None:
    policy = await parts.capturing.policies.update(POLICY, PolicyChange(enabled=True, sample_rate=0.5))
    live = [f"r-{number}" for number in range(20)]
    for name in live:
        with parts.capturing.responses.recording(
            f"s{name}", tenant="acme", target=DEPLOYMENT, origin=ORIGIN, prompt="p", mirror_of=name
        ) as recording:
            recording.finish(FINISH)
    await parts.capturing.responses.flush()
    expected = [f"s{name}" for name in live if policy.takes(name)]
    assert sorted(await texts(parts, *(f"s{name}" for name in live))) == sorted(expected)
    assert 0 < len(expected) < 20
    kept = await parts.store.response("acme", "sr-1", since=0)
    assert kept is not None
    assert kept.mirror_of == "r-1"


async def test_a_full_queue_drops_and_counts_and_never_waits(parts: CaptureParts) -> None:
    log = ResponseLog(parts.store, parts.capturing.policies, max_waiting=2, clock=parts.clock)
    before = metrics.responses_dropped._value.get()
    for number in range(5):
        with log.recording(f"r-{number}", tenant="acme", target="t", origin=ORIGIN, prompt="p") as recording:
            recording.finish(FINISH)
    assert metrics.responses_dropped._value.get() == before + 3
    await log.flush()
    assert [bool(await parts.store.response("acme", f"r-{n}", since=0)) for n in range(3)] == [True, True, False]


async def test_a_text_beyond_the_bound_is_not_captured_and_its_answer_still_is(
    parts: CaptureParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_log, "MAX_TEXT_CHARACTERS", 30)
    await parts.capturing.policies.update(POLICY, ON)
    before = metrics.captures_dropped.labels("too_long")._value.get()
    await answer(parts, "r-1", text="x" * 31)
    await answer(parts, "r-2", text="x" * 20)  # with its prompt it is too long
    assert metrics.captures_dropped.labels("too_long")._value.get() == before + 2
    assert await parts.store.response("acme", "r-1", since=0) is not None
    assert await texts(parts, "r-1", "r-2") == {}


async def test_records_survive_a_store_that_was_away(parts: CaptureParts) -> None:
    class Away:
        async def add(self, answers: Sequence[Captured]) -> int:
            raise OSError("away")

    log = ResponseLog(Away(), parts.capturing.policies, clock=parts.clock)
    with log.recording("r-1", tenant="acme", target="t", origin=ORIGIN, prompt="p") as recording:
        recording.finish(FINISH)
    with pytest.raises(OSError, match="away"):
        await log.flush()
    log._store = parts.store
    await log.flush()
    await log.flush()
    assert await parts.store.response("acme", "r-1", since=0) is not None


async def test_writing_an_answer_twice_keeps_it_once(parts: CaptureParts) -> None:
    await parts.capturing.policies.update(POLICY, ON)
    await answer(parts, "r-1")
    kept = await parts.store.response("acme", "r-1", since=0)
    assert kept is not None
    assert await parts.store.add([Captured(kept, None)]) == 0


async def test_parts_are_written_when_texts_are_old_enough_and_hold_them_once(parts: CaptureParts) -> None:
    await parts.capturing.policies.update(POLICY, ON)
    await answer(parts, "r-1")
    await parts.capturing.files.write_due()
    assert await part_files(parts) == []
    parts.clock.now += 300
    await answer(parts, "r-2")
    await parts.capturing.files.write_due()
    await parts.capturing.files.write_due()
    (part,) = await part_files(parts)
    found = rows(parts, part)
    assert [row["response_id"] for row in found] == ["r-1", "r-2"]
    nothing_more = {"name": None, "tool_calls": None, "tool_call_id": None}
    assert found[0]["messages"] == [
        {"role": "system", "content": "be brief", **nothing_more},
        {"role": "user", "content": "I am <EMAIL_ADDRESS>", **nothing_more},
    ]
    assert (part.row_count, part.oldest_time, found[0]["loaded_adapter"]) == (2, START, "g-1")
    assert "tenant" not in found[0]
    assert await parts.store.waiting_tenants() == {}


async def test_many_texts_are_written_at_once_and_in_several_parts_if_they_are_large(
    parts: CaptureParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthierd.inference.feedback.capture_files.MAX_PART_CHARACTERS", 100)
    await parts.capturing.policies.update(POLICY, ON)
    for number in range(3):
        await answer(parts, f"r-{number}", text="x" * 30)
    await parts.capturing.files.write_due()
    assert [part.row_count for part in await part_files(parts)] == [1, 1, 1]


async def test_an_opt_out_deletes_texts_files_and_exports_with_the_call(parts: CaptureParts) -> None:
    policies, files = parts.capturing.policies, parts.capturing.files
    await policies.update(POLICY, ON)
    await answer(parts, "r-1")
    await files.write_parts("acme")
    await answer(parts, "r-2")
    await parts.capturing.feedbacks.record(ACME, "r-1", Opinion(rating=Rating.GOOD))
    export = await parts.capturing.feedbacks.export(ACME, ExportFilter())
    assert parts.blob_count() == 2
    await policies.update(POLICY, PolicyChange(enabled=False))
    assert parts.blob_count() == 0
    assert await texts(parts, "r-2") == {}
    assert (await files.list(ACME, None, 0, "")).items == ()
    with pytest.raises(NotFoundError):
        await files.read(export.name, offset_bytes=0, limit_bytes=0)


async def test_an_answer_from_before_an_opt_out_is_not_captured_by_a_later_opt_in(parts: CaptureParts) -> None:
    policies, responses = parts.capturing.policies, parts.capturing.responses
    await policies.update(POLICY, ON)
    with responses.recording("r-1", tenant="acme", target="t", origin=ORIGIN, prompt="secret") as recording:
        recording.finish(FINISH)
    parts.clock.now += 1
    await policies.update(POLICY, PolicyChange(enabled=False))
    await policies.update(POLICY, ON)
    await responses.flush()
    assert await texts(parts, "r-1") == {}


async def test_a_part_that_an_opt_out_overtakes_is_deleted(parts: CaptureParts) -> None:
    await parts.capturing.policies.update(POLICY, ON)
    await answer(parts, "r-1")
    waiting = await parts.store.waiting("acme", limit=10)
    put = parts.blobs.put_bytes
    loop = asyncio.get_running_loop()

    def put_after_opt_out(data: bytes) -> object:
        off = parts.capturing.policies.update(POLICY, PolicyChange(enabled=False))
        asyncio.run_coroutine_threadsafe(off, loop).result(10)
        return put(data)

    parts.blobs.put_bytes = put_after_opt_out  # type: ignore[method-assign,assignment]
    assert not await parts.capturing.files._write_part("acme", waiting)
    assert (await part_files(parts), parts.blob_count()) == ([], 0)


async def test_a_server_that_dies_between_blob_and_row_loses_and_leaves_nothing(parts: CaptureParts) -> None:
    await parts.capturing.policies.update(POLICY, ON)
    await answer(parts, "r-1")

    async def die(*_: object) -> bool:
        raise OSError("killed")

    end_part, parts.store.end_part = parts.store.end_part, die  # type: ignore[method-assign]
    with pytest.raises(OSError, match="killed"):
        await parts.capturing.files.write_parts("acme")
    parts.store.end_part = end_part  # type: ignore[method-assign]
    again = over(parts.database, parts.temporary, parts.clock)
    parts.clock.now += 1
    await again.capturing.files.write_parts("acme")
    (part,) = await part_files(again)
    assert [row["response_id"] for row in rows(again, part)] == ["r-1"]
    parts.clock.now += 700
    await again.capturing.files.sweep()  # what was left half-way
    assert await part_files(again) == [part]
    assert rows(again, part)
    assert len(await parts.store.doomed()) == 0
    assert again.blob_count() == 1


async def test_what_is_past_its_time_is_deleted_rows_and_files(parts: CaptureParts) -> None:
    policies, files = parts.capturing.policies, parts.capturing.files
    await policies.update(POLICY, PolicyChange(enabled=True, retention_s=100))
    await answer(parts, "r-1")
    await files.write_parts("acme")
    await parts.capturing.feedbacks.record(ACME, "r-1", Opinion(correction="better"))
    parts.clock.now += 50
    await answer(parts, "r-2")
    parts.clock.now += 49
    await files.sweep()
    assert len(await part_files(parts)) == 1
    parts.clock.now += 1
    await files.sweep()
    assert (await part_files(parts), parts.blob_count()) == ([], 0)
    assert await parts.store.feedback("acme", ExportFilter(), limit=10) == []
    assert list(await texts(parts, "r-1", "r-2")) == ["r-2"]


async def test_answers_are_forgotten_after_their_time_unless_somebody_spoke_about_them(parts: CaptureParts) -> None:
    for number in (1, 2):
        await answer(parts, f"r-{number}")
    await parts.capturing.feedbacks.record(ACME, "r-2", Opinion(rating=Rating.BAD))
    parts.clock.now += 1001
    with pytest.raises(ResponseNotFoundError):
        await parts.capturing.feedbacks.record(ACME, "r-1", Opinion(rating=Rating.BAD))
    await parts.capturing.files.sweep()
    assert await parts.store.response("acme", "r-1", since=0) is None
    assert len(await parts.store.feedback("acme", ExportFilter(), limit=10)) == 1


async def test_an_export_has_texts_from_parts_and_from_before_their_part(parts: CaptureParts) -> None:
    feedbacks = parts.capturing.feedbacks
    await answer(parts, "r-0")
    await parts.capturing.policies.update(POLICY, ON)
    await answer(parts, "r-1", text="one")
    await parts.capturing.files.write_parts("acme")
    await answer(parts, "r-2", text="two")
    await feedbacks.record(ACME, "r-0", Opinion(correction="zero, says bob@example.org"))
    await feedbacks.record(ACME, "r-1", Opinion(rating=Rating.GOOD, labels=("b", "a")))
    await feedbacks.record(ACME, "r-2", Opinion(rating=Rating.BAD))
    file = await feedbacks.export(ACME, ExportFilter())
    found = {str(row["response_id"]): row for row in rows(parts, file)}
    assert {name: row["completion"] for name, row in found.items()} == {"r-0": None, "r-1": "one", "r-2": "two"}
    assert (found["r-0"]["messages"], found["r-0"]["correction"]) == (None, "zero, says <EMAIL_ADDRESS>")
    assert (found["r-1"]["rating"], found["r-1"]["labels"], found["r-0"]["rating"]) == ("GOOD", ["b", "a"], None)
    only = await feedbacks.export(ACME, ExportFilter(deployment=DEPLOYMENT, rating=Rating.GOOD))
    assert [row["response_id"] for row in rows(parts, only)] == ["r-1"]
    none = await feedbacks.export(ACME, ExportFilter(deployment="tenants/acme/deployments/other"))
    assert (none.row_count, rows(parts, none)) == (0, [])


async def test_an_export_that_an_opt_out_overtakes_is_refused_and_deleted(parts: CaptureParts) -> None:
    await parts.capturing.policies.update(POLICY, ON)
    await answer(parts, "r-1")
    await parts.capturing.feedbacks.record(ACME, "r-1", Opinion(rating=Rating.GOOD))
    begin = parts.store.begin_file

    async def begin_then_opt_out(file: CaptureFile) -> None:
        await begin(file)
        await parts.capturing.policies.update(POLICY, PolicyChange(enabled=False))

    parts.store.begin_file = begin_then_opt_out  # type: ignore[method-assign]
    with pytest.raises(ExportOvertakenError):
        await parts.capturing.feedbacks.export(ACME, ExportFilter())
    await parts.capturing.files.sweep()
    assert parts.blob_count() == 0


async def test_a_later_opinion_replaces_the_earlier_one(parts: CaptureParts) -> None:
    await answer(parts, "r-1")
    await parts.capturing.feedbacks.record(ACME, "r-1", Opinion(rating=Rating.BAD, labels=("rude",)))
    parts.clock.now += 5
    kept = await parts.capturing.feedbacks.record(ACME, "r-1", Opinion(rating=Rating.GOOD))
    assert (kept.create_time, kept.update_time, kept.opinion.labels) == (START, START + 5, ())
    assert len(await parts.store.feedback("acme", ExportFilter(), limit=10)) == 1


async def test_policies_are_compared_before_they_are_set(parts: CaptureParts) -> None:
    policies = parts.capturing.policies
    first = await policies.get(POLICY)
    assert (first.enabled, first.retention_s, first.sample_rate) == (False, 30 * 86400.0, 1.0)
    changed = await policies.update(POLICY, PolicyChange(sample_rate=0.5), etag=first.etag)
    assert changed.etag != first.etag
    with pytest.raises(EtagMismatchError):
        await policies.update(POLICY, ON, etag=first.etag)
    with pytest.raises(EtagMismatchError):
        await parts.store.put_policy(changed)
    assert (await policies.get(POLICY)).sample_rate == 0.5
