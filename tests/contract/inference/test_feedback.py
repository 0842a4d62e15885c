"""Feedback and capture over a real socket: whose answers, whose texts, and nobody else's."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pyarrow.parquet as pq
import pytest
from google.protobuf.duration_pb2 import Duration
from luthier.inference.v1 import feedback_pb2 as pb
from luthier.inference.v1 import feedback_service_pb2 as api
from luthier.inference.v1 import inference_service_pb2
from luthier.inference.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from luthier.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from luthierd.config import ServerConfig
from luthierd.curation.domain import Feedback
from luthierd.curation.sources.parquet import parquet_lines
from luthierd.curation.sources.rows import ImportLimits, parse_rows
from support.inference_fakes import revision
from support.inference_parts import Parts, make_parts
from support.serving import bearer, error_info, running

ACME, BETA = "tenants/acme", "tenants/beta"
SUPPORT = f"{ACME}/deployments/support"
R1, OF_BETA = revision("r1"), revision("r1", tenant="beta")


@dataclass
class Caller:
    """Calls as one tenant."""

    parts: Parts
    channel: grpc.aio.Channel
    tenant: str = "acme"

    async def call(self, method: str, request: Any, **options: Any) -> Any:
        stub = FeedbackServiceStub(self.channel)
        return await getattr(stub, method)(request, metadata=bearer(self.tenant, **options), timeout=10)

    async def ask(self, prompt: str = "I am bob@example.org") -> str:
        """The response id of an answer by the tenant's own deployment."""
        target = inference_service_pb2.Target(deployment=f"tenants/{self.tenant}/deployments/support")
        request = inference_service_pb2.GenerateRequest(target=target, prompt=prompt)
        answer = await InferenceServiceStub(self.channel).Generate(request, metadata=bearer(self.tenant), timeout=10)
        found: str = answer.response_id
        return found

    async def record(self, response_id: str, **fields: Any) -> pb.Feedback:
        request = api.RecordFeedbackRequest(
            **({"parent": f"tenants/{self.tenant}", "response_id": response_id, "rating": pb.RATING_GOOD} | fields)
        )
        return (await self.call("RecordFeedback", request)).feedback

    async def set_policy(self, **fields: Any) -> pb.CapturePolicy:
        etag = fields.pop("etag", "")
        request = api.UpdateCapturePolicyRequest(
            name=f"tenants/{self.tenant}/capturePolicy", capture_policy=pb.CapturePolicy(**fields), etag=etag
        )
        return (await self.call("UpdateCapturePolicy", request)).capture_policy

    async def export(self, **fields: Any) -> pb.CaptureFile:
        request = api.ExportFeedbackRequest(parent=f"tenants/{self.tenant}", **fields)
        return (await self.call("ExportFeedback", request)).capture_file


@pytest.fixture
async def acme() -> AsyncIterator[Caller]:
    parts = await make_parts(R1, OF_BETA)
    async with running(parts.service, ServerConfig()) as channel:
        await parts.deployments.deploy(SUPPORT, R1.name)
        await parts.deployments.deploy(SUPPORT.replace("acme", "beta"), OF_BETA.name)
        yield Caller(parts, channel)


@pytest.fixture
def beta(acme: Caller) -> Caller:
    return Caller(acme.parts, acme.channel, tenant="beta")


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """Status, reason and message of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), error_info(caught.value).reason, caught.value.details() or ""


async def test_feedback_on_an_answer_can_be_given_at_once_and_names_who_answered(acme: Caller) -> None:
    response_id = await acme.ask()
    kept = await acme.record(response_id, correction="ask bob@example.org", labels=["tone", "a", "tone"])
    assert (kept.name, kept.target, kept.loaded_adapter) == (
        f"{ACME}/feedback/{response_id}",
        SUPPORT,
        R1.loaded_adapter,
    )
    assert (kept.deployment_revision, kept.correction, list(kept.labels)) == (1, "ask <EMAIL_ADDRESS>", ["a", "tone"])


async def test_a_stream_can_be_spoken_about_by_the_id_of_its_first_message(acme: Caller) -> None:
    target = inference_service_pb2.Target(deployment=SUPPORT)
    turn = inference_service_pb2.Message(role="user", content="hello")
    request = inference_service_pb2.ChatStreamRequest(target=target, messages=[turn])
    stream = InferenceServiceStub(acme.channel).ChatStream(request, metadata=bearer(), timeout=10)
    messages = [message async for message in stream]
    assert (await acme.record(messages[0].response_id)).response_id == messages[-1].response_id


async def test_a_score_can_be_spoken_about(acme: Caller) -> None:
    request = inference_service_pb2.ScoreRequest(
        target=inference_service_pb2.Target(deployment=SUPPORT), prompt_text="a", completion_text="b"
    )
    scored = await InferenceServiceStub(acme.channel).Score(request, metadata=bearer(), timeout=10)
    assert (await acme.record(scored.response_id)).target == SUPPORT


async def test_an_unknown_id_and_another_tenants_are_one_and_the_same(acme: Caller, beta: Caller) -> None:
    theirs = await beta.ask()
    unknown = f"r-{uuid.uuid4().hex}"
    found = [await refusal(acme.record(name)) for name in (theirs, unknown)]
    assert [status for status, _, _ in found] == [grpc.StatusCode.NOT_FOUND] * 2
    assert {reason for _, reason, _ in found} == {"RESPONSE_NOT_FOUND"}
    assert found[0][2].replace(theirs, "X") == found[1][2].replace(unknown, "X")


async def test_another_tenant_is_refused_before_anything_is_looked_up(acme: Caller) -> None:
    for method, request in {
        "RecordFeedback": api.RecordFeedbackRequest(parent=BETA, response_id="r-1", rating=pb.RATING_BAD),
        "ExportFeedback": api.ExportFeedbackRequest(parent=BETA),
        "GetCapturePolicy": api.GetCapturePolicyRequest(name=f"{BETA}/capturePolicy"),
        "UpdateCapturePolicy": api.UpdateCapturePolicyRequest(name=f"{BETA}/capturePolicy"),
        "ListCaptures": api.ListCapturesRequest(parent=BETA),
        "ReadCaptureFile": api.ReadCaptureFileRequest(name=f"{BETA}/captureFiles/c-1"),
    }.items():
        status, reason, _ = await refusal(acme.call(method, request))
        assert (method, status, reason) == (method, grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    own = api.ExportFeedbackRequest(parent=ACME, deployment=f"{BETA}/deployments/support")
    assert (await refusal(acme.call("ExportFeedback", own)))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_who_may_only_generate_may_speak_and_not_read(acme: Caller) -> None:
    response_id = await acme.ask()
    only = {"scopes": ("inference.generate",)}
    request = api.RecordFeedbackRequest(parent=ACME, response_id=response_id, rating=pb.RATING_BAD)
    assert (await acme.call("RecordFeedback", request, **only)).feedback.rating == pb.RATING_BAD
    for method, refused in {
        "ExportFeedback": api.ExportFeedbackRequest(parent=ACME),
        "UpdateCapturePolicy": api.UpdateCapturePolicyRequest(name=f"{ACME}/capturePolicy"),
        "ListCaptures": api.ListCapturesRequest(parent=ACME),
    }.items():
        assert (await refusal(acme.call(method, refused, **only)))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_the_same_request_id_gives_the_same_answer_and_another_request_is_refused(acme: Caller) -> None:
    response_id, request_id = await acme.ask(), str(uuid.uuid4())
    first = await acme.record(response_id, request_id=request_id)
    acme.parts.capture.clock.now += 5
    assert await acme.record(response_id, request_id=request_id) == first
    refused = await refusal(acme.record(response_id, request_id=request_id, rating=pb.RATING_BAD))
    assert refused[1] == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"rating": 0}, "rating"),
        ({"rating": 9}, "rating"),
        ({"correction": "x" * 32_769}, "correction"),
        ({"labels": ["x"] * 17}, "labels"),
        ({"labels": [""]}, "labels[0]"),
        ({"response_id": ""}, "response_id"),
        ({"response_id": "r" * 65}, "response_id"),
    ],
)
async def test_feedback_beyond_its_bounds_is_refused_with_its_field(
    acme: Caller, fields: dict[str, Any], field: str
) -> None:
    status, _, message = await refusal(acme.record(**({"response_id": "r-1"} | fields)))
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith((f"{field}:", "the feedback is empty"))


async def test_capture_is_off_until_it_is_switched_on_and_an_export_has_no_text_without_it(acme: Caller) -> None:
    policy = await acme.call("GetCapturePolicy", api.GetCapturePolicyRequest(name=f"{ACME}/capturePolicy"))
    assert not policy.capture_policy.enabled
    await acme.record(await acme.ask(), correction="better")
    file = await acme.export()
    (row,) = pq.read_table(acme.parts.capture.blobs.local_path(file.sha256)).to_pylist()
    assert (row["messages"], row["completion"], row["correction"], row["rating"]) == (None, None, "better", "GOOD")


async def test_an_export_can_be_read_piece_by_piece_and_only_by_its_tenant(acme: Caller, beta: Caller) -> None:
    await acme.set_policy(enabled=True)
    await acme.record(await acme.ask())
    file = await acme.export()
    assert (file.kind, file.row_count) == (pb.CAPTURE_FILE_KIND_EXPORT, 1)
    data, offset = b"", 0
    while True:
        request = api.ReadCaptureFileRequest(name=file.name, offset_bytes=offset, limit_bytes=1000)
        chunk = await acme.call("ReadCaptureFile", request)
        data += chunk.data
        offset += len(chunk.data)
        if offset >= chunk.size_bytes:
            break
    path = acme.parts.capture.folder / "read.parquet"
    path.write_bytes(data)
    (row,) = pq.read_table(path).to_pylist()
    assert (row["completion"], row["messages"][0]["content"]) == ("I am acme-r1", "I am <EMAIL_ADDRESS>")
    listed = await acme.call("ListCaptures", api.ListCapturesRequest(parent=ACME))
    assert [one.name for one in listed.capture_files] == [file.name]
    assert not (await beta.call("ListCaptures", api.ListCapturesRequest(parent=BETA))).capture_files
    theirs = api.ReadCaptureFileRequest(name=file.name.replace("acme", "beta"))
    assert (await refusal(beta.call("ReadCaptureFile", theirs)))[1] == "CAPTURE_FILE_NOT_FOUND"


async def test_a_file_can_be_deleted_at_once_and_only_by_its_tenant(acme: Caller, beta: Caller) -> None:
    exported = (await acme.call("ExportFeedback", api.ExportFeedbackRequest(parent=ACME))).capture_file
    request = api.DeleteCaptureFileRequest(name=exported.name)
    assert (await refusal(beta.call("DeleteCaptureFile", request)))[0] is grpc.StatusCode.PERMISSION_DENIED
    await acme.call("DeleteCaptureFile", request)
    assert not (await acme.call("ListCaptures", api.ListCapturesRequest(parent=ACME))).capture_files
    assert (await refusal(acme.call("DeleteCaptureFile", request)))[0] is grpc.StatusCode.NOT_FOUND


async def test_a_policy_changes_only_what_is_set_and_only_the_one_that_was_read(acme: Caller) -> None:
    before = await acme.set_policy(enabled=True, retention=Duration(seconds=3600))
    after = await acme.set_policy(sample_rate=0.5, etag=before.etag)
    assert (after.enabled, after.retention.seconds, after.sample_rate) == (True, 3600, 0.5)
    assert (await refusal(acme.set_policy(enabled=False, etag=before.etag)))[1] == "ETAG_MISMATCH"
    status, _, message = await refusal(acme.set_policy(retention=Duration(seconds=1)))
    assert (status, message.split(":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "capture_policy.retention")


async def test_files_are_listed_by_kind_page_by_page(acme: Caller) -> None:
    await acme.set_policy(enabled=True)
    for _ in range(3):
        await acme.record(await acme.ask())
        acme.parts.capture.clock.now += 1
        await acme.parts.capture.capturing.files.write_parts("acme")
    await acme.export()
    request = api.ListCapturesRequest(parent=ACME, kind=pb.CAPTURE_FILE_KIND_PART, page_size=2)
    first = await acme.call("ListCaptures", request)
    request.page_token = first.next_page_token
    second = await acme.call("ListCaptures", request)
    names = [file.name for file in (*first.capture_files, *second.capture_files)]
    assert (len(first.capture_files), len(second.capture_files), names) == (2, 1, sorted(names))
    assert second.next_page_token == ""
    assert (await refusal(acme.call("ListCaptures", api.ListCapturesRequest(parent=ACME, kind=9))))[0] is (
        grpc.StatusCode.INVALID_ARGUMENT
    )


async def test_curation_reads_an_export_as_examples(acme: Caller) -> None:
    await acme.set_policy(enabled=True)
    corrected, good, bad = [await acme.ask(prompt) for prompt in ("one?", "two?", "three?")]
    await acme.record(corrected, correction="1", labels=["fact"])
    await acme.record(good)
    await acme.record(bad, rating=pb.RATING_BAD)
    file = await acme.export()
    limits = ImportLimits()
    with acme.parts.capture.blobs.local_path(file.sha256).open("rb") as opened:
        rows = {row.id: row for row in parse_rows(parquet_lines(opened, limits), limits)}
    assert {name: (row.prompt[0].content, row.completion) for name, row in rows.items()} == {
        corrected: ("one?", "1"),
        good: ("two?", "I am acme-r1"),
    }
    assert rows[corrected].feedback == Feedback("GOOD", ("fact",))


async def test_no_log_line_holds_a_users_text(acme: Caller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="luthierd")
    await acme.set_policy(enabled=True)
    await acme.record(await acme.ask("zebra crossing"), correction="giraffe")
    await acme.export()
    lines = json.dumps([vars(record) for record in caplog.records], default=str)
    assert "zebra" not in lines
    assert "giraffe" not in lines
