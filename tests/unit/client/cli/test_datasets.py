from __future__ import annotations

import hashlib
import json

import grpc
import pytest
from luthier.curation.v1 import dataset_pb2 as pb

REVISION = "tenants/acme/datasets/docs/revisions/r2"
READY = {
    "name": REVISION,
    "state": pb.DATASET_REVISION_STATE_READY,
    "sha256": "ab" * 32,
    "splits": [{"split": pb.SPLIT_TRAIN, "row_count": 320, "group_count": 40}],
    "stages": [{"stage": "near_duplicates", "dropped_count": 7, "reason_counts": {"jaccard": 7}}],
}


async def test_files_are_imported_under_the_tenants_name(services, luthier, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "p", "completion": "c"}')
    services.answers["ImportDataset"] = {"dataset": {"name": "tenants/acme/datasets/docs", "row_count": 1}}
    found = await luthier("dataset", "import", "docs", tmp_path / "a.jsonl")
    assert (found.code, found.out) == (0, "tenants/acme/datasets/docs\n")
    assert "luthier dataset curate docs" in found.err
    [[header, *data]] = services.asked["ImportDataset"]
    assert (header.header.parent, header.header.dataset_id) == ("tenants/acme", "docs")
    assert b"".join(part.data for part in data) == b'{"prompt": "p", "completion": "c"}\n'


async def test_a_bad_line_is_told_by_its_own_file(services, luthier, tmp_path, refuse):
    (tmp_path / "a.jsonl").write_text("1\n2\n3")
    (tmp_path / "b.jsonl").write_text("4\n5\n")
    services.answers["ImportDataset"] = refuse(grpc.StatusCode.INVALID_ARGUMENT, "BAD_LINE", line="5")
    found = await luthier("dataset", "import", "docs", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--json")
    assert found.code == 65
    assert found.lines[0]["message"].startswith(f"{tmp_path / 'b.jsonl'} line 2:")
    assert found.lines[0]["metadata"]["file_line"] == "2"


async def test_a_file_that_is_missing_is_wrong_usage(services, luthier, tmp_path):
    found = await luthier("dataset", "import", "docs", tmp_path / "none.jsonl")
    assert found.code == 64
    assert "none.jsonl" in found.err


async def test_curating_shows_progress_and_ends_with_the_revision(services, luthier, tmp_path):
    (tmp_path / "recipe.yaml").write_text("stages: [{stage: split, settings: {holdout_fraction: 0.3}}]\n")
    services.answers["CurateDataset"] = {"revision": {"name": REVISION}}
    progress = {"stage": "pii", "done_row_count": 5, "total_row_count": 9}
    services.answers["WatchDatasetRevision"] = [
        {"event": {"event_id": 1, "progress": progress}},
        {"event": {"event_id": 2, "state": pb.DATASET_REVISION_STATE_READY}},
    ]
    services.answers["GetDatasetRevision"] = {"revision": READY}
    found = await luthier("dataset", "curate", "docs", "--recipe", tmp_path / "recipe.yaml")
    assert found.code == 0
    assert found.out.splitlines()[0] == REVISION
    assert "jaccard 7" in found.out
    assert "pii 5/9" in found.err
    stages = {one.stage: dict(one.settings) for one in services.asked["CurateDataset"][0].recipe.stages}
    assert stages["split"] == {"holdout_fraction": 0.3}
    as_json = await luthier("dataset", "curate", "docs", "--json")
    assert [line["event"] for line in as_json.lines] == ["progress", "state", "result"]
    assert as_json.lines[-1]["splits"][0] | {"sha256": "", "size_bytes": 0} == {
        "split": "TRAIN",
        "sha256": "",
        "size_bytes": 0,
        "row_count": 320,
        "group_count": 40,
    }


async def test_a_recipe_of_sections_is_read_as_the_stages_that_it_stood_for(services, luthier, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("clean: {max_row_characters: 9}\ndeduplicate: {near_duplicate_threshold: 0.8}\nsplit:\n")
    services.answers["CurateDataset"] = {"revision": {"name": REVISION}}
    found = await luthier("dataset", "curate", "docs", "--recipe", path, "--detach")
    assert found.code == 0, found.err
    path.write_text("deduplicate: {near_duplicate_threshold: 1}\n")
    await luthier("dataset", "curate", "docs", "--recipe", path, "--detach")
    first, second = (
        [(one.stage, dict(one.settings)) for one in request.recipe.stages]
        for request in services.asked["CurateDataset"]
    )
    assert first == [
        ("clean", {"max_row_characters": 9}),
        ("exact_duplicates", {}),
        ("pii", {}),
        ("contradictions", {}),
        ("near_duplicates", {"threshold": 0.8}),
        ("split", {}),
    ]
    assert [stage for stage, _ in second] == ["clean", "exact_duplicates", "pii", "contradictions", "split"]


async def test_a_recipe_with_an_unknown_key_is_refused_before_any_call(services, luthier, tmp_path):
    (tmp_path / "recipe.yaml").write_text("stagse: []\n")
    found = await luthier("dataset", "curate", "docs", "--recipe", tmp_path / "recipe.yaml")
    assert found.code == 64
    assert "unknown key 'stagse'; did you mean 'stages'?" in found.err
    assert services.asked == {}


async def test_a_curation_that_failed_is_1_with_its_reason(services, luthier):
    services.answers["CurateDataset"] = {"revision": {"name": REVISION}}
    services.answers["WatchDatasetRevision"] = [{"event": {"event_id": 1, "state": pb.DATASET_REVISION_STATE_FAILED}}]
    failed = {"name": REVISION, "state": pb.DATASET_REVISION_STATE_FAILED, "error": {"message": "disk full"}}
    services.answers["GetDatasetRevision"] = {"revision": failed}
    found = await luthier("dataset", "curate", "docs")
    assert found.code == 1
    assert "disk full" in found.err


async def test_a_detached_curation_is_not_waited_for(services, luthier):
    services.answers["CurateDataset"] = {"revision": {"name": REVISION}}
    found = await luthier("dataset", "curate", "docs", "--detach")
    assert (found.code, found.out) == (0, f"{REVISION}\n")
    assert "WatchDatasetRevision" not in services.asked


async def test_a_dataset_and_a_revision_can_be_shown(services, luthier):
    services.answers["GetDataset"] = {"dataset": {"name": "tenants/acme/datasets/docs", "row_count": 9}}
    services.answers["ListDatasetRevisions"] = {"revisions": [READY]}
    services.answers["GetDatasetRevision"] = {"revision": READY}
    assert REVISION in (await luthier("dataset", "show", "docs")).out
    assert "320" in (await luthier("dataset", "show", "docs/r2")).out
    assert services.asked["GetDatasetRevision"][0].name == REVISION
    [shown] = (await luthier("dataset", "show", REVISION, "--json")).lines
    assert shown["state"] == "READY"
    [whole] = (await luthier("dataset", "show", "docs", "--json")).lines
    assert [revision["name"] for revision in whole["revisions"]] == [REVISION]


async def test_datasets_are_listed(services, luthier):
    services.answers["ListDatasets"] = {"datasets": [{"name": "tenants/acme/datasets/docs", "row_count": 1234}]}
    assert "1,234" in (await luthier("dataset", "list")).out
    assert (await luthier("dataset", "list", "--json")).lines[0]["datasets"][0]["row_count"] == 1234


async def test_a_split_is_exported_whole_or_not_at_all(services, luthier, tmp_path):
    content = json.dumps({"id": "1"}).encode() + b"\n"
    services.answers["GetDataset"] = {"dataset": {"latest_revision": REVISION}}
    answer = {"data": content, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    services.answers["ReadDatasetRevision"] = answer
    target = tmp_path / "out.jsonl"
    assert (await luthier("dataset", "export", "docs", "--split", "holdout", "-o", target)).code == 0
    assert target.read_bytes() == content
    assert services.asked["ReadDatasetRevision"][0].split == pb.SPLIT_HOLDOUT
    assert services.asked["ReadDatasetRevision"][0].name == REVISION
    answer["sha256"] = "0" * 64
    assert (await luthier("dataset", "export", "docs/r2", "-o", tmp_path / "bad.jsonl")).code == 70
    assert sorted(path.name for path in tmp_path.glob("*.jsonl*")) == ["out.jsonl"]


async def test_the_datasheet_is_exported_as_json(services, luthier, tmp_path):
    content = b'{"rows": 3}'
    sha256 = hashlib.sha256(content).hexdigest()
    services.answers["ReadDatasetRevision"] = {"data": content, "size_bytes": len(content), "sha256": sha256}
    assert (await luthier("dataset", "export", REVISION, "--datasheet", "-o", tmp_path / "sheet.json")).code == 0
    assert json.loads((tmp_path / "sheet.json").read_text()) == {"rows": 3}


async def test_a_folder_that_does_not_exist_is_a_file_error(services, luthier, tmp_path):
    found = await luthier("dataset", "export", REVISION, "-o", tmp_path / "no" / "out.jsonl")
    assert found.code == 74
    assert "No such file or directory" in found.err


async def test_exporting_a_dataset_without_a_revision_says_how_to_make_one(services, luthier, tmp_path):
    found = await luthier("dataset", "export", "docs", "-o", tmp_path / "x")
    assert found.code == 65
    assert "luthier dataset curate docs" in found.err


async def test_feedback_is_exported_and_imported_in_one_go(services, luthier):
    content = b"PAR1 and more"
    services.answers["ExportFeedback"] = {"capture_file": {"name": "tenants/acme/captureFiles/c1", "row_count": 3}}
    piece = {"data": content, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    services.answers["ReadCaptureFile"] = piece
    services.answers["ImportDataset"] = {"dataset": {"name": "tenants/acme/datasets/next", "row_count": 2}}
    found = await luthier("dataset", "import", "next", "--from-feedback", "--deployment", "d")
    assert (found.code, found.out) == (0, "tenants/acme/datasets/next\n")
    assert "2 of 3 answers" in found.err
    assert services.asked["ExportFeedback"][0].deployment == "tenants/acme/deployments/d"
    [[header, *data]] = services.asked["ImportDataset"]
    assert b"".join(request.data for request in data) == content
    assert header.header.expected_sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("options", [[], ["--from-feedback", __file__], ["--deployment", "d", __file__]])
async def test_an_import_has_one_source(services, luthier, options):
    assert (await luthier("dataset", "import", "next", *options)).code == 64


async def test_a_parquet_file_among_others_is_refused_before_anything_is_sent(services, luthier, tmp_path):
    for name in ("a.parquet", "b.parquet"):
        (tmp_path / name).write_bytes(b"PAR1")
    found = await luthier("dataset", "import", "d", tmp_path / "a.parquet", tmp_path / "b.parquet", "--json")
    assert found.lines[0]["reason"] == "PARQUET_AMONG_OTHERS"
    assert "ImportDataset" not in services.asked


async def test_documents_become_rows_whose_source_is_the_question(services, luthier, tmp_path):
    services.answers["ImportDataset"] = {"dataset": {"name": "tenants/acme/datasets/handbook", "row_count": 2}}
    lines = ['{"id": "d1", "text": "Leave is 30 days.", "source": "handbook 4.2"}', "", '{"text": "No smoking."}']
    (tmp_path / "h.jsonl").write_text("\n".join(lines))
    found = await luthier("dataset", "import", "handbook", tmp_path / "h.jsonl", "--documents")
    assert found.code == 0, found.err
    [[_, *data]] = services.asked["ImportDataset"]
    sent = b"".join(part.data for part in data)
    assert [json.loads(line) for line in sent.splitlines()] == [
        {"id": "d1", "prompt": "handbook 4.2", "completion": "Leave is 30 days.", "group": "handbook 4.2"},
        {"id": "h-3", "prompt": "h-3", "completion": "No smoking.", "group": "h-3"},
    ]


@pytest.mark.parametrize("line", ['{"text": ""}', "[]", "no json", '{"text": "x", "page": 4}'])
async def test_a_line_that_is_no_document_is_named_and_nothing_is_sent(services, luthier, tmp_path, line):
    (tmp_path / "h.jsonl").write_text('{"text": "fine"}\n' + line)
    found = await luthier("dataset", "import", "handbook", tmp_path / "h.jsonl", "--documents")
    assert found.code == 64
    assert "h.jsonl line 2" in found.err
    assert services.asked == {}
