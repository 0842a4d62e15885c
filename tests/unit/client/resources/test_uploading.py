"""Imports and downloads: what arrives is what was sent."""

from __future__ import annotations

import hashlib
import json

import grpc
import pytest
from luthier import errors
from luthier.curation.v1 import dataset_pb2 as pb

DATASET = "tenants/acme/datasets/d"
REVISION = f"{DATASET}/revisions/r1"


async def test_imported_rows_arrive_whole_under_their_digest(client, installation):
    rows = [{"prompt": f"Frage {i} ä", "completion": "x" * 100_000} for i in range(20)]
    dataset = await client.datasets.import_rows(DATASET, rows)
    assert dataset.name == DATASET
    [upload], [header] = installation.curation.uploads, installation.curation.asked
    assert [json.loads(line) for line in upload.splitlines()] == rows
    assert header.header.expected_sha256 == hashlib.sha256(upload).hexdigest()
    assert header.header.request_id


async def test_a_retried_import_begins_again_with_the_same_id(client, installation, refuse):
    installation.curation.refusals = [refuse(grpc.StatusCode.UNAVAILABLE, "DRAINING")]
    await client.datasets.import_rows(DATASET, [{"prompt": "a", "completion": "b"}])
    first, second = installation.curation.asked
    assert first.header == second.header
    assert installation.curation.uploads == [b'{"completion": "b", "prompt": "a"}\n']


async def test_files_are_joined_without_joining_their_lines(client, installation, tmp_path):
    (tmp_path / "one.jsonl").write_bytes(b'{"a": 1}')
    (tmp_path / "two.jsonl").write_bytes(b'{"b": 2}\n')
    await client.datasets.import_files(DATASET, [tmp_path / "one.jsonl", str(tmp_path / "two.jsonl")])
    assert installation.curation.uploads == [b'{"a": 1}\n{"b": 2}\n']


async def test_a_name_of_another_kind_is_refused_before_the_call(client):
    with pytest.raises(errors.InvalidNameError, match="dataset"):
        await client.datasets.import_rows("tenants/acme/adapters/d", [])


async def test_rows_of_a_split_are_read_piece_by_piece(client, installation):
    rows = [{"id": str(i), "group": "g", "label": None, "messages": []} for i in range(5)]
    installation.curation.content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    assert [row async for row in client.datasets.rows(REVISION, pb.SPLIT_TRAIN)] == rows
    assert len(installation.curation.asked) > 5


async def test_a_damaged_download_is_data_loss(client, installation):
    installation.curation.content, installation.curation.sha256 = b"abc", "0" * 64
    with pytest.raises(errors.DataLossError, match="arrived damaged"):
        _ = [piece async for piece in client.datasets.read_split(REVISION, pb.SPLIT_HOLDOUT)]


async def test_an_empty_split_has_no_rows(client, installation):
    assert [row async for row in client.datasets.rows(REVISION, pb.SPLIT_TRAIN)] == []
