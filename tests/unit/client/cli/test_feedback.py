"""luthier feedback and luthier capture."""

from __future__ import annotations

import hashlib
import io

import pytest

FILE = {
    "name": "tenants/acme/captureFiles/c1",
    "kind": 2,
    "sha256": "ab" * 32,
    "size_bytes": 2048,
    "row_count": 3,
    "create_time": {"seconds": 1_800_000_000},
}
POLICY = {"name": "tenants/acme/capturePolicy", "enabled": True, "retention": {"seconds": 86400}, "sample_rate": 0.5}


async def test_feedback_is_recorded(services, luthier, monkeypatch):
    services.answers["RecordFeedback"] = {"feedback": {"name": "tenants/acme/feedback/r-1", "target": "T"}}
    monkeypatch.setattr("sys.stdin", io.StringIO("what it should say"))
    options = ("--rating", "bad", "--correction", "-", "--label", "a", "--label", "b")
    found = await luthier("feedback", "record", "r-1", *options)
    assert (found.code, found.out) == (0, "tenants/acme/feedback/r-1\n")
    [request] = services.asked["RecordFeedback"]
    assert (request.parent, request.response_id, request.rating) == ("tenants/acme", "r-1", 1)
    assert (request.correction, list(request.labels)) == ("what it should say", ["a", "b"])
    assert (await luthier("feedback", "record", "r-1", "--rating", "good", "--json")).lines[0]["target"] == "T"


async def test_feedback_that_says_nothing_is_not_sent(services, luthier):
    assert (await luthier("feedback", "record", "r-1")).code == 64
    assert "RecordFeedback" not in services.asked


async def test_an_export_is_named_and_saved_whole(services, luthier, tmp_path):
    services.answers["ExportFeedback"] = {"capture_file": FILE}
    piece = {"data": b"PAR1", "size_bytes": 4, "sha256": hashlib.sha256(b"PAR1").hexdigest()}
    services.answers["ReadCaptureFile"] = piece
    found = await luthier("feedback", "export", "--deployment", "d", "--rating", "good", "-o", tmp_path / "f.parquet")
    assert (found.code, found.out) == (0, "tenants/acme/captureFiles/c1\n")
    assert (tmp_path / "f.parquet").read_bytes() == b"PAR1"
    [request] = services.asked["ExportFeedback"]
    assert (request.deployment, request.rating) == ("tenants/acme/deployments/d", 2)
    services.answers["ReadCaptureFile"] = piece | {"sha256": "0" * 64}
    damaged = await luthier("feedback", "export", "-o", tmp_path / "g.parquet", "--json")
    assert (damaged.code, damaged.lines[0]["reason"]) == (70, "DIGEST_MISMATCH")
    assert sorted(path.name for path in tmp_path.glob("*parquet*")) == ["f.parquet"]


async def test_a_policy_is_shown_and_changed(services, luthier):
    services.answers |= {name: {"capture_policy": POLICY} for name in ("GetCapturePolicy", "UpdateCapturePolicy")}
    assert (await luthier("capture", "show")).out == "tenants/acme/capturePolicy: on, kept 1 days, sample 0.5\n"
    found = await luthier("capture", "set", "--off", "--retention", "12h", "--json")
    assert found.lines[0]["sample_rate"] == 0.5
    [request] = services.asked["UpdateCapturePolicy"]
    policy = request.capture_policy
    assert (policy.enabled, policy.HasField("sample_rate"), policy.retention.seconds) == (False, False, 12 * 3600)


@pytest.mark.parametrize("options", [[], ["--retention", "soon"], ["--retention", "30"]])
async def test_a_change_that_is_none_or_no_span_is_not_sent(services, luthier, options):
    assert (await luthier("capture", "set", *options)).code == 64
    assert "UpdateCapturePolicy" not in services.asked


async def test_capture_files_are_listed(services, luthier):
    services.answers["ListCaptures"] = {"capture_files": [FILE]}
    found = await luthier("capture", "list")
    assert "export" in found.out
    assert "2.0 KiB" in found.out
    assert (await luthier("capture", "list", "--json")).lines[0]["capture_files"][0]["kind"] == "EXPORT"
