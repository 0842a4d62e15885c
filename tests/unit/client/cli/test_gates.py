"""luthier gate: its short form, its files, plan and selftest."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from luthier import gate_reports
from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import gate_pb2

EVALUATION = "tenants/acme/evaluations/e1"
REVISION = "tenants/acme/datasets/docs/revisions/r1"
PASS, BREACH, UNSURE = 1, 2, 3
CONDITION = {"metric": "rouge_l", "arm": pb.ARM_ADAPTER, "reference": pb.ARM_BASE, "tier": gate_pb2.GATE_TIER_CRITICAL}
FOUND = {"estimate": 0.1, "interval_low": 0.05, "interval_high": 0.15, "adjusted_p_value": 0.002, "coverage": 1.0}
PLAN = {
    "dataset_revision": REVISION,
    "conditions": [
        {
            "condition": {**CONDITION, "expected": 0.1},
            "outcome": UNSURE,
            "minimum_detectable_effect": 0.21,
            "needed_row_count": 412,
            "needed_group_count": 140,
            "row_count": 60,
            "group_count": 20,
            "variance_source": "assumed",
            "explanation": "412 rows would do",
        }
    ],
}


def decision(outcome: int, *conditions: tuple[int, int, str]) -> gate_pb2.GateDecision:
    """Conditions as (outcome, tier, explanation)."""
    return gate_pb2.GateDecision(
        outcome=outcome,
        evaluation=EVALUATION,
        conditions=[
            {"condition": {**CONDITION, "tier": tier}, "outcome": found, "explanation": why, **FOUND}
            for found, tier, why in conditions
        ],
    )


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "candidate_count: 3\n"
        "conditions: [{metric: rouge_l, reference: base, tier: supporting, slice: 'label:a', expected: 0.2}]\n"
        "limits: [{quantity: latency_ms_p95, at_most: 900}]\n"
    )
    return path


@pytest.mark.parametrize("form", [("gate",), ("gate", "run")])
async def test_gate_alone_is_gate_run_and_writes_what_is_asked_for(services, luthier, policy, tmp_path, form):
    services.answers["RunGate"] = {"decision": decision(gate_pb2.GATE_OUTCOME_GO, (PASS, 1, "proved"))}
    files = {name: tmp_path / f"out.{name}" for name in ("json", "xml", "md")}
    options = ["--json-file", files["json"], "--junit", files["xml"], "--markdown", files["md"]]
    found = await luthier(*form, "e1", "--policy", policy, *options)
    assert found.code == 0
    assert found.out.splitlines()[-1] == "GO"
    [request] = services.asked["RunGate"]
    assert request.inline_policy.candidate_count == 3
    assert request.inline_policy.conditions[0].slice == "label:a"
    assert request.inline_policy.conditions[0].tier == gate_pb2.GATE_TIER_SUPPORTING
    assert request.inline_policy.limits[0].quantity == gate_pb2.GATE_QUANTITY_LATENCY_MS_P95
    assert json.loads(files["json"].read_text())["outcome"] == "GO"
    assert ElementTree.parse(files["xml"]).getroot().get("tests") == "1"
    assert "✅ GO" in files["md"].read_text()


def test_junit_tells_a_breach_from_missing_evidence_and_skips_what_does_not_decide():
    given = decision(
        2, (PASS, 1, "a"), (BREACH, 1, "b"), (UNSURE, 1, "c"), (UNSURE, 20, "d"), (BREACH, 20, "e"), (BREACH, 2, "f")
    )
    suite = ElementTree.fromstring(gate_reports.junit(given).split("\n", 1)[1])
    children = [[child.tag for child in case if child.tag != "system-out"] for case in suite]
    assert children == [[], ["failure"], ["error"], ["skipped"], ["failure"], ["skipped"]]
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["6", "2", "1", "2"]


def test_hostile_names_neither_break_the_xml_nor_the_markdown():
    given = decision(2, (BREACH, 1, "a|b <script>\x00 ]]> [x](http://evil) `c` \n| d"))
    ElementTree.fromstring(gate_reports.junit(given).split("\n", 1)[1])
    text = gate_reports.markdown(given)
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "](http" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 3


def test_where_there_is_no_interval_the_reports_say_so():
    given = decision(3, (UNSURE, 1, "too few groups"))
    given.conditions[0].interval_low = given.conditions[0].interval_high = float("nan")
    given.limits.add(outcome=UNSURE, value=float("nan"), interval_low=float("nan"), interval_high=float("nan"))
    text = gate_reports.markdown(given)
    assert "+0.100 (no interval)" in text
    assert "not known" in text
    assert "+nan" not in text


@pytest.mark.parametrize(("outcome", "code", "word"), [(1, 0, "GO"), (2, 1, "NO-GO"), (3, 2, "INCONCLUSIVE")])
async def test_a_plan_s_outcome_is_the_exit_code(services, luthier, policy, outcome, code, word):
    services.answers |= {
        "ListDatasetRevisions": {"revisions": [{"name": REVISION}]},
        "PlanGate": {"plan": {**PLAN, "outcome": outcome}},
    }
    found = await luthier("gate", "plan", "--policy", policy, "--dataset", "docs/r1", "--limit", "60", "--pilot", "e1")
    assert (found.code, found.out.splitlines()[-1]) == (code, word)
    assert "412" in found.out
    [request] = services.asked["PlanGate"]
    assert (request.dataset_revision, request.row_limit, request.split) == (REVISION, 60, "holdout")
    assert request.pilot_evaluation == EVALUATION


@pytest.mark.parametrize(("outcome", "code"), [(PASS, 0), (BREACH, 1), (UNSURE, 2)])
async def test_a_self_test_s_outcome_is_the_exit_code(services, luthier, outcome, code):
    result = {"metric": "rouge_l", "arm": 4, "reference": 1, "false_go_rate": 0.02, "group_count": 20}
    services.answers["SelfTestGate"] = {"self_test": {"outcome": outcome, "results": [result], "alpha": 0.025}}
    found = await luthier("gate", "selftest", "e1", "--experiments", "100")
    assert found.code == code
    assert "adapter = base" in found.out
    assert services.asked["SelfTestGate"][0].experiment_count == 100


async def test_gate_without_arguments_is_a_question(luthier):
    found = await luthier("gate")
    assert found.code == 64
    assert "selftest" in found.err + found.out
