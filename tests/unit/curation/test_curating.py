"""Curation from the first row to the datasheet."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import pytest
from luthierd.codec import from_json, to_json
from luthierd.curation.curating import NothingLeftError, curate, curate_source
from luthierd.curation.datasheet import quantiles
from luthierd.curation.domain import Curated, RevisionContent, Row, Split, row_to_json
from luthierd.curation.stages.stage import RecipeError
from luthierd.storage.blob_errors import BlobCorruptError
from luthierd.storage.blobs import BlobStore
from support.curation_material import row, stages_of


def material() -> list[Row]:
    """Twenty rows, of which two are copies, one is alike, one has an address, and two contradict each other."""
    rows = [row(i, label=f"l{i % 2}") for i in range(20)]
    rows[3] = dataclasses.replace(rows[2], id="row-3")
    rows[4] = dataclasses.replace(rows[2], id="row-4")
    rows[5] = row(5, prompt="More: " + rows[6].prompt[0].content, completion="answer 6")
    rows[7] = row(7, prompt="Ask ada@corp.example", completion="It is asked.")
    rows[8], rows[9] = row(8, prompt="Is it?", completion="yes"), row(9, prompt="Is it?", completion="no")
    return rows


def quiet(stage: str, done: int, total: int) -> None:
    pass


def run(rows: list[Row], *names: str, **settings: Any) -> Curated:
    return curate(rows, stages_of(*names, **settings), progress=quiet)


def test_every_row_is_in_a_split_or_dropped_with_a_reason() -> None:
    rows = material()
    result = run(rows)
    kept = {one.id for split in Split for one in result.rows_of(split)}
    dropped = {change.row_id for changes in result.changes.values() for change in changes if change.is_dropped}
    assert kept | dropped == {one.id for one in rows}
    assert not kept & dropped
    assert [(one.stage, one.dropped_count, one.changed_count) for one in result.summaries()] == [
        ("clean", 0, 0),
        ("exact_duplicates", 2, 0),
        ("pii", 0, 1),
        ("near_duplicates", 1, 0),
        ("split", 0, 0),
    ]
    assert result.findings["contradictions"]["examples"] == [["row-8", "row-9"]]


def test_rows_alike_but_for_a_masked_address_are_near_duplicates() -> None:
    rows = [row(i) for i in range(10)]
    rows += [row(20 + i, prompt=f"x{i}@corp.example is away", completion="Noted.") for i in range(3)]
    result = run(rows)
    assert len(result.changes["near_duplicates"]) == 2


def test_near_duplicates_can_be_left_alone() -> None:
    result = run(material(), "clean", "split")
    assert list(result.changes) == ["clean", "split"]
    assert len(result.rows) == 20


def test_an_entity_that_the_scanner_does_not_know_is_named() -> None:
    with pytest.raises(RecipeError, match="EMIAL_ADDRESS is not known"):
        run(material(), pii={"entities": ["EMIAL_ADDRESS"]})


def test_a_stage_that_drops_the_last_row_is_named() -> None:
    with pytest.raises(NothingLeftError, match="the stage clean dropped the last of 20 rows"):
        run(material(), clean={"min_completion_characters": 1000})


def curate_blobs(folder: pathlib.Path, rows: list[Row]) -> tuple[RevisionContent, BlobStore]:
    blobs = BlobStore(f"file://{folder}")
    source = blobs.put_bytes(b"".join(row_to_json(one) + b"\n" for one in rows))
    content = curate_source(
        source.sha256,
        stages_of(),
        revision="tenants/t/datasets/d/revisions/r1",
        recipe={},
        blobs=blobs,
        versions={"luthier": "0"},
        progress=quiet,
    )
    return content, blobs


def test_the_same_source_gives_the_same_bytes(tmp_path: pathlib.Path) -> None:
    first, _ = curate_blobs(tmp_path / "a", material())
    second, _ = curate_blobs(tmp_path / "b", material())
    assert first == second
    assert from_json(RevisionContent, json.loads(json.dumps(to_json(first)))) == first


def test_a_source_that_was_changed_on_the_disk_is_not_curated(tmp_path: pathlib.Path) -> None:
    content, blobs = curate_blobs(tmp_path, material())
    source = json.loads(blobs.read_bytes(content.datasheet_sha256))["source"]["sha256"]
    path = blobs.local_path(source)
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
    with pytest.raises(BlobCorruptError, match=r"^the source of tenants/t/datasets/d/revisions/r1: "):
        curate_source(
            source,
            stages_of(),
            revision="tenants/t/datasets/d/revisions/r1",
            recipe={},
            blobs=blobs,
            versions={},
            progress=quiet,
        )


def test_the_datasheet_explains_and_holds_no_text(tmp_path: pathlib.Path) -> None:
    content, blobs = curate_blobs(tmp_path, material())
    data = blobs.read_bytes(content.datasheet_sha256)
    sheet = json.loads(data)
    assert b"ada@" not in data
    assert b"w6x1" not in data
    assert sheet["source"]["row_count"] == 20
    assert sheet["stages"][1]["reasons"]["same_messages"] == {"count": 2, "example_ids": ["row-3", "row-4"]}
    assert sheet["contradictions"] == {"prompt_count": 1, "row_count": 2, "examples": [["row-8", "row-9"]]}
    assert sheet["pii"]["masked_span_count"] == {"EMAIL_ADDRESS": 1}
    assert sum(split["row_count"] for split in sheet["splits"].values()) == 17
    page = sheet["page_markdown"]
    assert "20 rows came in, 3 were dropped, 17 stay." in page
    assert "| exact_duplicates | same_messages | 2 | `row-3`, `row-4` |" in page
    provenance = [json.loads(line) for line in blobs.read_bytes(sheet["provenance_sha256"]).splitlines()]
    assert {
        "id": "row-3",
        "stage": "exact_duplicates",
        "action": "dropped",
        "reason": "same_messages",
        "kept_id": "row-2",
    } in provenance
    assert len(provenance) == 4


def test_progress_can_stop_the_work() -> None:
    class StopError(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "pii":
            raise StopError

    with pytest.raises(StopError):
        curate(material(), stages_of(), progress=stop)


def test_quantiles_are_by_nearest_rank() -> None:
    assert quantiles([]) == {}
    assert quantiles(range(101)) == {"min": 0, "p05": 5, "p50": 50, "p95": 95, "max": 100}


def test_progress_is_told_within_the_long_stages() -> None:
    heard = []
    rows = [row(i) for i in range(600)]
    curate(rows, stages_of(), progress=lambda stage, done, total: heard.append((stage, done, total)))
    assert heard[0] == ("clean", 0, 600)
    assert ("pii", 320, 600) in heard
    assert ("near_duplicates", 512, 600) in heard
    assert heard[-1] == ("split", 600, 600)
