"""`luthier.curation.v1.DatasetService` over real sockets; the worker does not run, so that revisions stay CURATING."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import uuid
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from luthier.curation.v1 import dataset_pb2 as pb
from luthier.curation.v1 import dataset_service_pb2 as api
from luthier.curation.v1.dataset_service_pb2_grpc import DatasetServiceStub
from luthierd.curation.build import build
from luthierd.curation.config import CurationConfig
from support.full_disk import small_disk
from support.serving import VERIFIER, bearer, details, error_info, running

GOOD = b'{"prompt": "2 + 2?", "completion": "4"}\n'
ACME = "tenants/acme"
SUMS = f"{ACME}/datasets/sums"


@pytest.fixture
def config(tmp_path: pathlib.Path) -> CurationConfig:
    return CurationConfig(home=tmp_path, worker_count=0, max_row_bytes=4096, max_row_count=50, max_import_bytes=65536)


@pytest.fixture
async def stub(config: CurationConfig) -> AsyncIterator[DatasetServiceStub]:
    async with running(await build(config, verifier=VERIFIER), config) as channel:
        yield DatasetServiceStub(channel)


def requests(chunks: Iterable[bytes], **header: str) -> Iterable[api.ImportDatasetRequest]:
    values = {"parent": ACME, "dataset_id": "sums"} | header
    yield api.ImportDatasetRequest(header=api.ImportDatasetHeader(**values))
    for chunk in chunks:
        yield api.ImportDatasetRequest(data=chunk)


async def import_rows(stub: DatasetServiceStub, *chunks: bytes, tenant: str = "acme", **header: str) -> pb.Dataset:
    answer = await stub.ImportDataset(requests(chunks, **header), metadata=bearer(tenant), timeout=10)
    return answer.dataset


async def refusal(call: grpc.aio.Call) -> grpc.aio.AioRpcError:
    async def finish() -> None:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await finish()
    return caught.value


async def test_an_import_makes_a_dataset_whose_lines_may_straddle_messages(stub: DatasetServiceStub) -> None:
    data = GOOD + b'{"prompt": "3 + 3?", "completion": "6"}'
    dataset = await import_rows(stub, *(data[i : i + 7] for i in range(0, len(data), 7)))
    assert (dataset.name, dataset.row_count, dataset.latest_revision) == (SUMS, 2, "")
    got = await stub.GetDataset(api.GetDatasetRequest(name=SUMS), metadata=bearer(), timeout=5)
    assert got.dataset == dataset


async def test_importing_the_same_again_changes_nothing(stub: DatasetServiceStub) -> None:
    assert await import_rows(stub, GOOD) == await import_rows(stub, GOOD)


async def test_importing_other_rows_changes_source_and_etag(stub: DatasetServiceStub) -> None:
    first = await import_rows(stub, GOOD)
    second = await import_rows(stub, GOOD.replace(b"4", b"four"))
    assert second.source_sha256 != first.source_sha256
    assert second.etag != first.etag
    assert second.create_time == first.create_time


async def test_a_repeated_import_request_gets_its_first_answer_and_does_not_undo_a_later_import(
    stub: DatasetServiceStub,
) -> None:
    request_id = str(uuid.uuid4())
    first = await import_rows(stub, GOOD, request_id=request_id)
    later = await import_rows(stub, GOOD.replace(b"4", b"four"))
    assert await import_rows(stub, GOOD, request_id=request_id) == first
    now = await stub.GetDataset(api.GetDatasetRequest(name=SUMS), metadata=bearer(), timeout=5)
    assert now.dataset == later


async def test_a_request_id_of_another_import_is_refused(stub: DatasetServiceStub) -> None:
    request_id = str(uuid.uuid4())
    await import_rows(stub, GOOD, request_id=request_id)
    call = stub.ImportDataset(requests([GOOD], request_id=request_id, dataset_id="other"), metadata=bearer(), timeout=5)
    assert error_info(await refusal(call)).reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    ("data", "reason", "line"),
    [
        (b"", "IMPORT_EMPTY", None),
        (b"\n\n", "IMPORT_EMPTY", None),
        (GOOD + b'{"prompt": "x"', "ROW_NOT_JSON", "2"),
        (GOOD + b"[1]\n", "ROW_NOT_OBJECT", "2"),
        (GOOD + b"\xff\n", "ROW_NOT_UTF8", "2"),
        (b'{"messages": [{"content": "x"}, {"role": "assistant", "content": "y"}]}', "ROW_ROLE_MISSING", "1"),
        (b'{"messages": [{"role": "bot", "content": "x"}]}', "ROW_ROLE_UNKNOWN", "1"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "ROW_LAST_NOT_ASSISTANT", "1"),
        (b'{"prompt": " ", "completion": "y"}', "ROW_CONTENT_EMPTY", "1"),
        (b'{"prompt": "x", "completion": "y", "id": "a"}\n' * 2, "ROW_ID_DUPLICATE", "2"),
        (b'{"promt": "x", "completion": "y"}', "ROW_KEY_UNKNOWN", "1"),
        (GOOD + b'{"prompt": "' + b"x" * 5000 + b'", "completion": "y"}', "ROW_TOO_LARGE", "2"),
        (GOOD * 51, "IMPORT_TOO_MANY_ROWS", "51"),
        (b" " * 70_000, "IMPORT_TOO_LARGE", None),
    ],
)
async def test_a_bad_import_is_named_and_changes_nothing(
    stub: DatasetServiceStub, data: bytes, reason: str, line: str | None
) -> None:
    before = await import_rows(stub, b'{"prompt": "old", "completion": "rows"}')
    error = await refusal(stub.ImportDataset(requests([data]), metadata=bearer(), timeout=10))
    info = error_info(error)
    assert (error.code(), info.reason, info.domain) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        reason,
        "curation.luthier.dev",
    )
    assert info.metadata.get("line") == line
    after = await stub.GetDataset(api.GetDatasetRequest(name=SUMS), metadata=bearer(), timeout=5)
    assert after.dataset == before


async def test_damaged_bytes_are_data_loss_and_change_nothing(stub: DatasetServiceStub) -> None:
    call = stub.ImportDataset(
        requests([GOOD], expected_sha256=hashlib.sha256(b"other").hexdigest()), metadata=bearer(), timeout=5
    )
    error = await refusal(call)
    assert (error.code(), error_info(error).reason) == (grpc.StatusCode.DATA_LOSS, "IMPORT_DIGEST_MISMATCH")
    missing = await refusal(stub.GetDataset(api.GetDatasetRequest(name=SUMS), metadata=bearer(), timeout=5))
    assert (missing.code(), error_info(missing).reason) == (grpc.StatusCode.NOT_FOUND, "DATASET_NOT_FOUND")


async def test_an_import_to_a_full_disk_is_named_and_changes_nothing(tmp_path: pathlib.Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        config = CurationConfig(home=disk.folder, worker_count=0)
        async with running(await build(config, verifier=VERIFIER), config) as channel:
            stub, large = DatasetServiceStub(channel), b'{"prompt": "x", "completion": "' + b"y" * 50_000 + b'"}\n'
            before = await import_rows(stub, GOOD)
            disk.fill()
            error = await refusal(stub.ImportDataset(requests([large * 20]), metadata=bearer(), timeout=10))
            assert (error.code(), error_info(error).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL")
            assert str(disk.folder) in error_info(error).metadata["location"]
            got = await stub.GetDataset(api.GetDatasetRequest(name=SUMS), metadata=bearer(), timeout=5)
            assert got.dataset == before
            assert not list(disk.folder.rglob("*.partial"))
            disk.free()
            assert (await import_rows(stub, large * 20)).row_count == 20


async def test_an_import_starts_with_its_header(stub: DatasetServiceStub) -> None:
    call = stub.ImportDataset(iter([api.ImportDatasetRequest(data=GOOD)]), metadata=bearer(), timeout=5)
    assert (await refusal(call)).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_another_tenants_import_is_refused(stub: DatasetServiceStub) -> None:
    call = stub.ImportDataset(requests([GOOD]), metadata=bearer("rival"), timeout=5)
    assert (await refusal(call)).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_datasets_are_listed_by_page_and_by_tenant(stub: DatasetServiceStub) -> None:
    for name in ("c", "a", "b"):
        await import_rows(stub, GOOD, dataset_id=name)
    await import_rows(stub, GOOD, dataset_id="d", parent="tenants/acme2", tenant="acme2")
    names, token = [], ""
    while True:
        request = api.ListDatasetsRequest(parent=ACME, page_size=2, page_token=token)
        page = await stub.ListDatasets(request, metadata=bearer(), timeout=5)
        names += [dataset.name.rpartition("/")[2] for dataset in page.datasets]
        token = page.next_page_token
        if not token:
            break
    assert names == ["a", "b", "c"]


async def test_a_curation_is_acknowledged_with_every_default_of_its_recipe(stub: DatasetServiceStub) -> None:
    dataset = await import_rows(stub, GOOD)
    chosen = {"holdout_fraction": 0.0, "seed": 7}
    recipe = pb.CurationRecipe(stages=[pb.CurationStage(stage="pii"), pb.CurationStage(stage="split", settings=chosen)])
    answer = await stub.CurateDataset(api.CurateDatasetRequest(name=SUMS, recipe=recipe), metadata=bearer(), timeout=5)
    revision = answer.revision
    assert (revision.name, revision.state) == (f"{SUMS}/revisions/r1", pb.DATASET_REVISION_STATE_CURATING)
    assert revision.source_sha256 == dataset.source_sha256
    assert [one.stage for one in revision.recipe.stages] == ["pii", "split"]
    pii, split = (json_format.MessageToDict(one.settings) for one in revision.recipe.stages)
    assert (split["holdout_fraction"], split["seed"]) == (0.0, 7)
    assert split["validation_fraction"] == 0.1
    assert pii["action"] == "mask"
    assert "EMAIL_ADDRESS" in pii["entities"]


async def test_a_recipe_without_stages_has_the_default_ones(stub: DatasetServiceStub) -> None:
    await import_rows(stub, GOOD)
    answer = await stub.CurateDataset(api.CurateDatasetRequest(name=SUMS), metadata=bearer(), timeout=5)
    stages = [one.stage for one in answer.revision.recipe.stages]
    assert stages == ["clean", "exact_duplicates", "pii", "contradictions", "near_duplicates", "split"]


async def test_a_repeated_curate_request_begins_one_revision(stub: DatasetServiceStub) -> None:
    await import_rows(stub, GOOD)
    request = api.CurateDatasetRequest(name=SUMS, request_id=str(uuid.uuid4()))
    answers = [await stub.CurateDataset(request, metadata=bearer(), timeout=5) for _ in range(2)]
    assert answers[0] == answers[1]
    listed = await stub.ListDatasetRevisions(api.ListDatasetRevisionsRequest(parent=SUMS), metadata=bearer(), timeout=5)
    assert len(listed.revisions) == 1


@pytest.mark.parametrize(
    ("stage", "settings", "field"),
    [
        ("split", {"holdout_fraction": 1.5}, "recipe.split.holdout_fraction"),
        ("split", {"holdout_fraction": 0.5, "validation_fraction": 0.5}, "recipe.split.holdout_fraction"),
        ("split", {"holdout_fracton": 0.5}, "recipe.split.holdout_fracton"),
        ("near_duplicates", {"threshold": 0.1}, "recipe.near_duplicates.threshold"),
        ("clean", {"max_row_characters": 0}, "recipe.clean.max_row_characters"),
        ("pii", {"min_score": 2}, "recipe.pii.min_score"),
        ("pii", {"action": "burn"}, "recipe.pii.action"),
        ("claen", {}, "recipe.stages[0].stage"),
    ],
)
async def test_a_recipe_out_of_range_names_its_field(
    stub: DatasetServiceStub, stage: str, settings: dict[str, Any], field: str
) -> None:
    await import_rows(stub, GOOD)
    recipe = pb.CurationRecipe(stages=[pb.CurationStage(stage=stage, settings=settings)])
    request = api.CurateDatasetRequest(name=SUMS, recipe=recipe)
    error = await refusal(stub.CurateDataset(request, metadata=bearer(), timeout=5))
    assert error_info(error).reason == "RECIPE_INVALID"
    assert field.encode() in details(error).SerializeToString()


async def test_revisions_of_one_or_of_every_dataset_are_listed_newest_first(stub: DatasetServiceStub) -> None:
    for name in ("sums", "poems"):
        await import_rows(stub, GOOD, dataset_id=name)
        for _ in range(2):
            await stub.CurateDataset(
                api.CurateDatasetRequest(name=f"{ACME}/datasets/{name}"), metadata=bearer(), timeout=5
            )
    for parent, expected in (
        (SUMS, ["sums/revisions/r2", "sums/revisions/r1"]),
        (f"{ACME}/datasets/-", ["poems/revisions/r2", "poems/revisions/r1", "sums/revisions/r2", "sums/revisions/r1"]),
    ):
        page = await stub.ListDatasetRevisions(
            api.ListDatasetRevisionsRequest(parent=parent), metadata=bearer(), timeout=5
        )
        assert [revision.name.removeprefix(f"{ACME}/datasets/") for revision in page.revisions] == expected


async def test_a_tenant_with_too_many_waiting_curations_is_refused_and_others_are_not(config: CurationConfig) -> None:
    config = dataclasses.replace(config, max_waiting_jobs_per_tenant=2)
    async with running(await build(config, verifier=VERIFIER), config) as channel:
        stub = DatasetServiceStub(channel)
        other = "tenants/other/datasets/sums"
        await import_rows(stub, GOOD)
        await import_rows(stub, GOOD, tenant="other", parent="tenants/other")
        for _ in range(2):
            await stub.CurateDataset(api.CurateDatasetRequest(name=SUMS), metadata=bearer(), timeout=5)
        error = await refusal(stub.CurateDataset(api.CurateDatasetRequest(name=SUMS), metadata=bearer(), timeout=5))
        assert (error.code(), error_info(error).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "JOB_QUOTA_EXCEEDED")
        await stub.CurateDataset(api.CurateDatasetRequest(name=other), metadata=bearer("other"), timeout=5)


async def test_a_cancelled_revision_ends_its_watch_and_cannot_be_read(stub: DatasetServiceStub) -> None:
    await import_rows(stub, GOOD)
    await stub.CurateDataset(api.CurateDatasetRequest(name=SUMS), metadata=bearer(), timeout=5)
    name = f"{SUMS}/revisions/r1"
    for _ in range(2):  # the second time it is final, and stays as it is
        answer = await stub.CancelDatasetRevision(
            api.CancelDatasetRevisionRequest(name=name), metadata=bearer(), timeout=5
        )
        assert answer.revision.state == pb.DATASET_REVISION_STATE_CANCELLED
    watch = stub.WatchDatasetRevision(api.WatchDatasetRevisionRequest(name=name), metadata=bearer(), timeout=5)
    states = [message.event.state async for message in watch]
    assert states == [pb.DATASET_REVISION_STATE_CURATING, pb.DATASET_REVISION_STATE_CANCELLED]
    read = api.ReadDatasetRevisionRequest(name=name, split=pb.SPLIT_TRAIN)
    error = await refusal(stub.ReadDatasetRevision(read, metadata=bearer(), timeout=5))
    assert (error.code(), error_info(error).reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "DATASET_REVISION_NOT_READY",
    )


NONE_REVISION = f"{ACME}/datasets/none/revisions/r1"
CALLS = {
    "GetDataset": api.GetDatasetRequest(name=f"{ACME}/datasets/none"),
    "ListDatasets": api.ListDatasetsRequest(parent=ACME, page_size=-1),
    "CurateDataset": api.CurateDatasetRequest(name=f"{ACME}/datasets/none"),
    "GetDatasetRevision": api.GetDatasetRevisionRequest(name=NONE_REVISION),
    "ListDatasetRevisions": api.ListDatasetRevisionsRequest(parent=f"{ACME}/datasets/none"),
    "CancelDatasetRevision": api.CancelDatasetRevisionRequest(name=NONE_REVISION),
    "WatchDatasetRevision": api.WatchDatasetRevisionRequest(name=NONE_REVISION),
    "ReadDatasetRevision": api.ReadDatasetRevisionRequest(name=NONE_REVISION, datasheet=True),
}


@pytest.mark.parametrize("method", CALLS)
async def test_every_call_refuses_strangers_other_tenants_and_unknown_names(
    stub: DatasetServiceStub, method: str
) -> None:
    call, request = getattr(stub, method), CALLS[method]
    assert (await refusal(call(request, timeout=5))).code() is grpc.StatusCode.UNAUTHENTICATED
    expired = bearer(ttl_s=-60)
    assert (await refusal(call(request, metadata=expired, timeout=5))).code() is grpc.StatusCode.UNAUTHENTICATED
    for metadata in (bearer("rival"), bearer(scopes=("inference.generate",))):
        assert (await refusal(call(request, metadata=metadata, timeout=5))).code() is grpc.StatusCode.PERMISSION_DENIED
    error = await refusal(call(request, metadata=bearer(), timeout=5))
    if method == "ListDatasets":
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    else:
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert error_info(error).reason in {"DATASET_NOT_FOUND", "DATASET_REVISION_NOT_FOUND"}


@pytest.mark.parametrize("method", CALLS)
async def test_every_call_refuses_a_name_that_is_none(stub: DatasetServiceStub, method: str) -> None:
    request = type(CALLS[method])()
    field = "parent" if "parent" in request.DESCRIPTOR.fields_by_name else "name"
    setattr(request, field, "Sums!")
    error = await refusal(getattr(stub, method)(request, metadata=bearer(), timeout=5))
    assert error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED}


async def test_acknowledged_things_are_there_after_a_restart(config: CurationConfig) -> None:
    async with running(await build(config, verifier=VERIFIER), config) as channel:
        dataset = await import_rows(DatasetServiceStub(channel), GOOD)
        answer = await DatasetServiceStub(channel).CurateDataset(
            api.CurateDatasetRequest(name=SUMS), metadata=bearer(), timeout=5
        )
    async with running(await build(dataclasses.replace(config), verifier=VERIFIER), config) as channel:
        stub = DatasetServiceStub(channel)
        got = await stub.GetDataset(api.GetDatasetRequest(name=SUMS), metadata=bearer(), timeout=5)
        assert got.dataset.source_sha256 == dataset.source_sha256
        request = api.GetDatasetRevisionRequest(name=answer.revision.name)
        assert (await stub.GetDatasetRevision(request, metadata=bearer(), timeout=5)).revision == answer.revision


async def test_the_stored_source_is_canonical_whatever_the_form_of_the_import(
    stub: DatasetServiceStub, config: CurationConfig
) -> None:
    pair = {"prompt": "a", "completion": "b", "id": "x"}
    chat = {"id": "x", "messages": [{"role": "user", "content": "a"}, {"content": "b", "role": "assistant"}]}
    first = await import_rows(stub, json.dumps(pair).encode())
    second = await import_rows(stub, b"\xef\xbb\xbf" + json.dumps(chat).encode() + b"\r\n\r\n")
    assert first.source_sha256 == second.source_sha256
