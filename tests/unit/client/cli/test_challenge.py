"""luthier challenge: proposals are written for people, and only what they accepted is sent."""

from __future__ import annotations

import json

import pytest

CASE = {
    "case_id": "vague-001",
    "kind": 1,
    "expected": 2,
    "turns": [{"role": "user", "content": "The usual."}],
    "group": "g1",
    "source_row_id": "r1",
    "origin": "template",
}
SET = {"name": "tenants/acme/challengeSets/dabc", "case_count": 1}


async def written(luthier, tmp_path, *options):
    path = tmp_path / "cases.jsonl"
    revision = "tenants/acme/datasets/docs/revisions/r1"
    found = await luthier("challenge", "generate", "--dataset", revision, "-o", path, *options)
    assert found.code == 0, found.err
    return path


def reviewed(path, review):
    rows = [json.loads(line) | {"review": review} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


async def test_proposals_must_be_reviewed_before_they_are_uploaded(services, luthier, tmp_path):
    services.answers["GenerateChallengeCases"] = {"cases": [CASE]}
    services.answers["CreateChallengeSet"] = {"challenge_set": SET}
    path = await written(luthier, tmp_path, "--count", "1")
    row = json.loads(path.read_text())
    assert (row["kind"], row["expected"], row["review"]) == ("vague", "ask_back", "proposed")
    refused = await luthier("challenge", "upload", path)
    assert refused.code == 64
    assert "CreateChallengeSet" not in services.asked
    reviewed(path, "accepted")
    found = await luthier("challenge", "upload", path)
    assert (found.code, found.out) == (0, "tenants/acme/challengeSets/dabc\n")
    [request] = services.asked["CreateChallengeSet"]
    assert [(case.case_id, case.kind, case.expected) for case in request.cases] == [("vague-001", 1, 2)]


async def test_rejected_rows_stay_at_home(services, luthier, tmp_path):
    services.answers["GenerateChallengeCases"] = {"cases": [CASE, CASE | {"case_id": "vague-002"}]}
    services.answers["CreateChallengeSet"] = {"challenge_set": SET}
    path = await written(luthier, tmp_path)
    lines = path.read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    path.write_text("\n".join(json.dumps(r) for r in (first | {"review": "rejected"}, second | {"review": "accepted"})))
    assert (await luthier("challenge", "upload", path)).code == 0
    [request] = services.asked["CreateChallengeSet"]
    assert [case.case_id for case in request.cases] == ["vague-002"]


async def test_a_model_s_rewording_is_a_proposal_like_the_others(services, luthier, tmp_path):
    services.answers["GenerateChallengeCases"] = {"cases": [CASE]}
    services.answers["Chat"] = {"text": "The same as ever."}
    path = await written(luthier, tmp_path, "--variants", "baseModels/tiny")
    _, reworded = (json.loads(line) for line in path.read_text().splitlines())
    assert reworded["case_id"] == "vague-001-reworded"
    assert reworded["turns"][-1]["content"] == "The same as ever."
    assert (reworded["review"], reworded["origin"]) == ("proposed", "by baseModels/tiny")


@pytest.mark.parametrize(
    "line", ["[]", "{", '{"kind": "vague", "review": "perhaps"}', '{"kind": "odd", "review": "accepted"}']
)
async def test_a_wrong_line_is_named(services, luthier, tmp_path, line):
    path = tmp_path / "cases.jsonl"
    path.write_text(f"\n{line}\n")
    found = await luthier("challenge", "upload", path, "--json")
    assert found.code == 64
    assert "line 2" in found.lines[0]["message"]
    assert "CreateChallengeSet" not in services.asked


async def test_an_evaluation_takes_a_set_by_name_or_uploads_a_reviewed_file(services, luthier, tmp_path):
    services.answers["GenerateChallengeCases"] = {"cases": [CASE]}
    services.answers["CreateChallengeSet"] = {"challenge_set": SET}
    services.answers["CreateEvaluation"] = {"evaluation": {"name": "tenants/acme/evaluations/e1"}}
    adapter = "tenants/acme/adapters/support/revisions/r1"
    path = await written(luthier, tmp_path)
    assert (await luthier("evaluate", adapter, "--challenge", path, "--detach")).code == 64
    assert "CreateEvaluation" not in services.asked
    reviewed(path, "accepted")
    assert (await luthier("evaluate", adapter, "--challenge", path, "--detach")).code == 0
    assert (await luthier("evaluate", adapter, "--challenge", "dxyz", "--detach")).code == 0
    sets = [request.evaluation.config.challenge_set for request in services.asked["CreateEvaluation"]]
    assert sets == ["tenants/acme/challengeSets/dabc", "tenants/acme/challengeSets/dxyz"]
