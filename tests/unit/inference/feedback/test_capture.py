"""What is kept of answers: nothing that was not allowed, nothing twice, nothing too long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pyarrow.parquet as pq
import pytest
from luthierd.errors import InvalidArgumentError, NotFoundError
from luthierd.inference import metrics
from luthierd.inference.domain.errors import EtagMismatchError
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
from luthierd.inference.domain.model import Finish, Origin, Turn
from luthierd.inference.feedback import capture
from luthierd.inference.feedback.capture import ResponseLog
from luthierd.inference.feedback.feedback import ExportOvertakenError, ResponseNotFoundError
from support.capture_parts import START, CaptureHouse, make_capture_house, over

POLICY, ACME = "tenants/acme/capturePolicy", "tenants/acme"
DEPLOYMENT = "tenants/acme/deployments/support"
ORIGIN = Origin(
    loaded_adapter="g-1",
    deployment_revision=3,
    adapter_revision="tenants/acme/adapters/a/revisions/r1",
    base_model="baseModels/m",
)
FINISH = Finish(reason="stop", prompt_token_count=5, completion_token_count=7, ttft_ms=1.5, latency_ms=9.0)
PROMPT = (Turn("system", "be brief"), Turn("user", "I am ada@example.org"))
ON = PolicyChange(enabled=True)


@pytest.fixture
async def house() -> AsyncIterator[CaptureHouse]:
    made = await make_capture_house()
    yield made
    await made.close()


async def answer(
    house: CaptureHouse,
    response_id: str,
    *,
    tenant: str = "acme",
    text: str = "call (212) 555-0187",
    is_whole: bool = True,
) -> None:
    """An answer in two pieces, written down."""
    with house.capturing.responses.recording(
        response_id, tenant=tenant, target=DEPLOYMENT, origin=ORIGIN, prompt=PROMPT
    ) as recording:
        recording.add(text[:4])
        recording.add(text[4:])
        if is_whole:
            recording.finish(FINISH)
    await house.capturing.responses.flush()


async def texts(house: CaptureHouse, *response_ids: str) -> dict[str, object]:
    return dict(await house.store.texts(response_ids))


async def parts(house: CaptureHouse, tenant: str = "acme") -> list[CaptureFile]:
    return list((await house.capturing.files.list(f"tenants/{tenant}", FileKind.PART, 0, "")).items)


def rows(house: CaptureHouse, file: CaptureFile) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(house.blobs.local_path(file.sha256)).to_pylist()
    return found


async def test_without_a_policy_only_metadata_is_kept(house: CaptureHouse) -> None:
    await answer(house, "r-1")
    kept = await house.store.response("acme", "r-1", since=0)
    assert kept is not None
    assert (kept.loaded_adapter, kept.completion_token_count, kept.create_time) == ("g-1", 7, START)
    assert await texts(house, "r-1") == {}
    assert await house.store.waiting_tenants() == {}


async def test_texts_are_redacted_before_they_are_written(house: CaptureHouse) -> None:
    await house.capturing.policies.update(POLICY, ON)
    await answer(house, "r-1")
    kept = (await house.store.texts(["r-1"]))["r-1"]
    assert kept.messages == (Turn("system", "be brief"), Turn("user", "I am <EMAIL_ADDRESS>"))
    assert kept.completion == "call <PHONE_NUMBER>"
    assert b"ada@example" not in b"".join(path.read_bytes() for path in house.folder.glob("inference.db*"))


async def test_one_tenant_opting_in_captures_nothing_of_another(house: CaptureHouse) -> None:
    await house.capturing.policies.update(POLICY, ON)
    await answer(house, "r-1", tenant="beta")
    assert await texts(house, "r-1") == {}


async def test_an_aborted_answer_can_be_spoken_about_and_is_not_captured(house: CaptureHouse) -> None:
    await house.capturing.policies.update(POLICY, ON)
    await answer(house, "r-1", is_whole=False)
    kept = await house.store.response("acme", "r-1", since=0)
    assert kept is not None
    assert kept.finish_reason == "aborted"
    assert await texts(house, "r-1") == {}


async def test_the_sample_rate_takes_its_share_and_the_same_one_everywhere() -> None:
    policy = CapturePolicy(tenant="acme", enabled=True, sample_rate=0.25)
    taken = [number for number in range(4000) if policy.takes(f"r-{number}")]
    assert 900 < len(taken) < 1100
    assert taken == [number for number in range(4000) if policy.takes(f"r-{number}")]


async def test_a_shadow_answer_is_captured_if_its_live_one_is_and_names_it(house: CaptureHouse) -> None:
    policy = await house.capturing.policies.update(POLICY, PolicyChange(enabled=True, sample_rate=0.5))
    live = [f"r-{number}" for number in range(20)]
    for name in live:
        with house.capturing.responses.recording(
            f"s{name}", tenant="acme", target=DEPLOYMENT, origin=ORIGIN, prompt="p", mirror_of=name
        ) as recording:
            recording.finish(FINISH)
    await house.capturing.responses.flush()
    expected = [f"s{name}" for name in live if policy.takes(name)]
    assert sorted(await texts(house, *(f"s{name}" for name in live))) == sorted(expected)
    assert 0 < len(expected) < 20
    kept = await house.store.response("acme", "sr-1", since=0)
    assert kept is not None
    assert kept.mirror_of == "r-1"


async def test_a_full_queue_drops_and_counts_and_never_waits(house: CaptureHouse) -> None:
    log = ResponseLog(house.store, house.capturing.policies, max_waiting=2, clock=house.clock)
    before = metrics.responses_dropped._value.get()
    for number in range(5):
        with log.recording(f"r-{number}", tenant="acme", target="t", origin=ORIGIN, prompt="p") as recording:
            recording.finish(FINISH)
    assert metrics.responses_dropped._value.get() == before + 3
    await log.flush()
    assert [bool(await house.store.response("acme", f"r-{n}", since=0)) for n in range(3)] == [True, True, False]


async def test_a_text_beyond_the_bound_is_not_captured_and_its_answer_still_is(
    house: CaptureHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "MAX_TEXT_CHARACTERS", 30)
    await house.capturing.policies.update(POLICY, ON)
    before = metrics.captures_dropped.labels("too_long")._value.get()
    await answer(house, "r-1", text="x" * 31)
    await answer(house, "r-2", text="x" * 20)  # with its prompt it is too long
    assert metrics.captures_dropped.labels("too_long")._value.get() == before + 2
    assert await house.store.response("acme", "r-1", since=0) is not None
    assert await texts(house, "r-1", "r-2") == {}


async def test_records_survive_a_store_that_was_away(house: CaptureHouse) -> None:
    class Away:
        async def add(self, answers: Sequence[Captured]) -> int:
            raise OSError("away")

    log = ResponseLog(Away(), house.capturing.policies, clock=house.clock)
    with log.recording("r-1", tenant="acme", target="t", origin=ORIGIN, prompt="p") as recording:
        recording.finish(FINISH)
    with pytest.raises(OSError, match="away"):
        await log.flush()
    log._store = house.store
    await log.flush()
    await log.flush()
    assert await house.store.response("acme", "r-1", since=0) is not None


async def test_writing_an_answer_twice_keeps_it_once(house: CaptureHouse) -> None:
    await house.capturing.policies.update(POLICY, ON)
    await answer(house, "r-1")
    kept = await house.store.response("acme", "r-1", since=0)
    assert kept is not None
    assert await house.store.add([Captured(kept, None)]) == 0


async def test_parts_are_written_when_texts_are_old_enough_and_hold_them_once(house: CaptureHouse) -> None:
    await house.capturing.policies.update(POLICY, ON)
    await answer(house, "r-1")
    await house.capturing.files.write_due()
    assert await parts(house) == []
    house.clock.now += 300
    await answer(house, "r-2")
    await house.capturing.files.write_due()
    await house.capturing.files.write_due()
    (part,) = await parts(house)
    found = rows(house, part)
    assert [row["response_id"] for row in found] == ["r-1", "r-2"]
    assert found[0]["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "I am <EMAIL_ADDRESS>"},
    ]
    assert (part.row_count, part.oldest_time, found[0]["loaded_adapter"]) == (2, START, "g-1")
    assert "tenant" not in found[0]
    assert await house.store.waiting_tenants() == {}


async def test_many_texts_are_written_at_once_and_in_several_parts_if_they_are_large(
    house: CaptureHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthierd.inference.feedback.capture_files.MAX_PART_CHARACTERS", 100)
    await house.capturing.policies.update(POLICY, ON)
    for number in range(3):
        await answer(house, f"r-{number}", text="x" * 30)
    await house.capturing.files.write_due()
    assert [part.row_count for part in await parts(house)] == [1, 1, 1]


async def test_an_opt_out_deletes_texts_files_and_exports_with_the_call(house: CaptureHouse) -> None:
    policies, files = house.capturing.policies, house.capturing.files
    await policies.update(POLICY, ON)
    await answer(house, "r-1")
    await files.write_parts("acme")
    await answer(house, "r-2")
    await house.capturing.feedbacks.record(ACME, "r-1", Opinion(rating=Rating.GOOD))
    export = await house.capturing.feedbacks.export(ACME, ExportFilter())
    assert house.blob_count() == 2
    await policies.update(POLICY, PolicyChange(enabled=False))
    assert house.blob_count() == 0
    assert await texts(house, "r-2") == {}
    assert (await files.list(ACME, None, 0, "")).items == ()
    with pytest.raises(NotFoundError):
        await files.read(export.name, offset_bytes=0, limit_bytes=0)


async def test_an_answer_from_before_an_opt_out_is_not_captured_by_a_later_opt_in(house: CaptureHouse) -> None:
    policies, responses = house.capturing.policies, house.capturing.responses
    await policies.update(POLICY, ON)
    with responses.recording("r-1", tenant="acme", target="t", origin=ORIGIN, prompt="secret") as recording:
        recording.finish(FINISH)
    house.clock.now += 1
    await policies.update(POLICY, PolicyChange(enabled=False))
    await policies.update(POLICY, ON)
    await responses.flush()
    assert await texts(house, "r-1") == {}


async def test_a_part_that_an_opt_out_overtakes_is_deleted(house: CaptureHouse) -> None:
    await house.capturing.policies.update(POLICY, ON)
    await answer(house, "r-1")
    waiting = await house.store.waiting("acme", limit=10)
    put = house.blobs.put_bytes
    loop = asyncio.get_running_loop()

    def put_after_opt_out(data: bytes) -> object:
        off = house.capturing.policies.update(POLICY, PolicyChange(enabled=False))
        asyncio.run_coroutine_threadsafe(off, loop).result(10)
        return put(data)

    house.blobs.put_bytes = put_after_opt_out  # type: ignore[method-assign,assignment]
    assert not await house.capturing.files._write_part("acme", waiting)
    assert (await parts(house), house.blob_count()) == ([], 0)


async def test_a_server_that_dies_between_blob_and_row_loses_and_leaves_nothing(house: CaptureHouse) -> None:
    await house.capturing.policies.update(POLICY, ON)
    await answer(house, "r-1")

    async def die(*_: object) -> bool:
        raise OSError("killed")

    end_part, house.store.end_part = house.store.end_part, die  # type: ignore[method-assign]
    with pytest.raises(OSError, match="killed"):
        await house.capturing.files.write_parts("acme")
    house.store.end_part = end_part  # type: ignore[method-assign]
    again = over(house.database, house.temporary, house.clock)
    house.clock.now += 1
    await again.capturing.files.write_parts("acme")
    (part,) = await parts(again)
    assert [row["response_id"] for row in rows(again, part)] == ["r-1"]
    house.clock.now += 700
    await again.capturing.files.sweep()  # what was left half-way
    assert await parts(again) == [part]
    assert rows(again, part)
    assert len(await house.store.doomed()) == 0
    assert again.blob_count() == 1


async def test_what_is_past_its_time_is_deleted_rows_and_files(house: CaptureHouse) -> None:
    policies, files = house.capturing.policies, house.capturing.files
    await policies.update(POLICY, PolicyChange(enabled=True, retention_s=100))
    await answer(house, "r-1")
    await files.write_parts("acme")
    await house.capturing.feedbacks.record(ACME, "r-1", Opinion(correction="better"))
    house.clock.now += 50
    await answer(house, "r-2")
    house.clock.now += 49
    await files.sweep()
    assert len(await parts(house)) == 1
    house.clock.now += 1
    await files.sweep()
    assert (await parts(house), house.blob_count()) == ([], 0)
    assert await house.store.feedback("acme", ExportFilter(), limit=10) == []
    assert list(await texts(house, "r-1", "r-2")) == ["r-2"]


async def test_answers_are_forgotten_after_their_time_unless_somebody_spoke_about_them(house: CaptureHouse) -> None:
    for number in (1, 2):
        await answer(house, f"r-{number}")
    await house.capturing.feedbacks.record(ACME, "r-2", Opinion(rating=Rating.BAD))
    house.clock.now += 1001
    with pytest.raises(ResponseNotFoundError):
        await house.capturing.feedbacks.record(ACME, "r-1", Opinion(rating=Rating.BAD))
    await house.capturing.files.sweep()
    assert await house.store.response("acme", "r-1", since=0) is None
    assert len(await house.store.feedback("acme", ExportFilter(), limit=10)) == 1


async def test_an_export_has_texts_from_parts_and_from_before_their_part(house: CaptureHouse) -> None:
    feedbacks = house.capturing.feedbacks
    await answer(house, "r-0")
    await house.capturing.policies.update(POLICY, ON)
    await answer(house, "r-1", text="one")
    await house.capturing.files.write_parts("acme")
    await answer(house, "r-2", text="two")
    await feedbacks.record(ACME, "r-0", Opinion(correction="zero, says bob@example.org"))
    await feedbacks.record(ACME, "r-1", Opinion(rating=Rating.GOOD, labels=("b", "a")))
    await feedbacks.record(ACME, "r-2", Opinion(rating=Rating.BAD))
    file = await feedbacks.export(ACME, ExportFilter())
    found = {str(row["response_id"]): row for row in rows(house, file)}
    assert {name: row["completion"] for name, row in found.items()} == {"r-0": None, "r-1": "one", "r-2": "two"}
    assert (found["r-0"]["messages"], found["r-0"]["correction"]) == (None, "zero, says <EMAIL_ADDRESS>")
    assert (found["r-1"]["rating"], found["r-1"]["labels"], found["r-0"]["rating"]) == ("GOOD", ["b", "a"], None)
    only = await feedbacks.export(ACME, ExportFilter(deployment=DEPLOYMENT, rating=Rating.GOOD))
    assert [row["response_id"] for row in rows(house, only)] == ["r-1"]
    none = await feedbacks.export(ACME, ExportFilter(deployment="tenants/acme/deployments/other"))
    assert (none.row_count, rows(house, none)) == (0, [])


async def test_an_export_that_an_opt_out_overtakes_is_refused_and_deleted(house: CaptureHouse) -> None:
    await house.capturing.policies.update(POLICY, ON)
    await answer(house, "r-1")
    await house.capturing.feedbacks.record(ACME, "r-1", Opinion(rating=Rating.GOOD))
    begin = house.store.begin_file

    async def begin_then_opt_out(file: CaptureFile) -> None:
        await begin(file)
        await house.capturing.policies.update(POLICY, PolicyChange(enabled=False))

    house.store.begin_file = begin_then_opt_out  # type: ignore[method-assign]
    with pytest.raises(ExportOvertakenError):
        await house.capturing.feedbacks.export(ACME, ExportFilter())
    await house.capturing.files.sweep()
    assert house.blob_count() == 0


async def test_a_later_opinion_replaces_the_earlier_one(house: CaptureHouse) -> None:
    await answer(house, "r-1")
    await house.capturing.feedbacks.record(ACME, "r-1", Opinion(rating=Rating.BAD, labels=("rude",)))
    house.clock.now += 5
    kept = await house.capturing.feedbacks.record(ACME, "r-1", Opinion(rating=Rating.GOOD))
    assert (kept.create_time, kept.update_time, kept.opinion.labels) == (START, START + 5, ())
    assert len(await house.store.feedback("acme", ExportFilter(), limit=10)) == 1


async def test_policies_are_compared_before_they_are_set(house: CaptureHouse) -> None:
    policies = house.capturing.policies
    first = await policies.get(POLICY)
    assert (first.enabled, first.retention_s, first.sample_rate) == (False, 30 * 86400.0, 1.0)
    changed = await policies.update(POLICY, PolicyChange(sample_rate=0.5), etag=first.etag)
    assert changed.etag != first.etag
    with pytest.raises(EtagMismatchError):
        await policies.update(POLICY, ON, etag=first.etag)
    with pytest.raises(EtagMismatchError):
        await house.store.put_policy(changed)
    assert (await policies.get(POLICY)).sample_rate == 0.5


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (PolicyChange(retention_s=59), "capture_policy.retention"),
        (PolicyChange(retention_s=367 * 86400), "capture_policy.retention"),
        (PolicyChange(sample_rate=0), "capture_policy.sample_rate"),
        (PolicyChange(sample_rate=1.01), "capture_policy.sample_rate"),
        (PolicyChange(sample_rate=float("nan")), "capture_policy.sample_rate"),
    ],
)
def test_a_policy_out_of_its_range_is_refused_with_its_field(change: PolicyChange, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        CapturePolicy(tenant="acme").changed(change, 0.0)
    assert caught.value.violations[0].field == field


@pytest.mark.parametrize(
    ("correction", "labels", "field"),
    [
        ("", (), "rating"),
        ("  ", (), "rating"),
        ("x" * 32_769, (), "correction"),
        ("a\0b", (), "correction"),
        ("", ("x",) * 17, "labels"),
        ("", ("ok", ""), "labels[1]"),
        ("", ("x" * 65,), "labels[0]"),
        ("", (" x",), "labels[0]"),
        ("", ("a\nb",), "labels[0]"),
    ],
)
def test_an_opinion_beyond_its_bounds_is_refused_with_its_field(
    correction: str, labels: tuple[str, ...], field: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Opinion.parse(Rating.UNSPECIFIED, correction, labels)
    assert caught.value.violations[0].field == field
