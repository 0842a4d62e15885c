from __future__ import annotations

import hashlib

import pytest
from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import gate_pb2

EVALUATION = "tenants/acme/evaluations/e1"
ADAPTER_REVISION = "tenants/acme/adapters/style/revisions/r1"
METRIC = {"metric": "rouge_l", "mean": 0.47, "interval_low": 0.41, "interval_high": 0.53, "coverage": 0.9}
DONE = {
    "name": EVALUATION,
    "state": pb.EVALUATION_STATE_SUCCEEDED,
    "arms": [{"arm": pb.ARM_ADAPTER, "row_count": 80, "failed_row_count": 8, "metrics": [METRIC]}],
    "differences": [
        {
            "metric": "rouge_l",
            "arm": pb.ARM_ADAPTER,
            "reference": pb.ARM_BASE,
            "difference": 0.3,
            "interval_low": 0.2,
            "interval_high": 0.4,
            "row_count": 72,
            "group_count": 30,
        }
    ],
}


@pytest.fixture
def evaluated(services):
    """An evaluation that succeeds, with a report."""
    report = b"<html>report</html>"
    services.answers |= {
        "ListAdapterRevisions": {"revisions": [{"name": ADAPTER_REVISION}]},
        "CreateEvaluation": {"evaluation": {"name": EVALUATION}},
        "WatchEvaluation": [
            {"event": {"event_id": 1, "progress": {"phase": "answer", "arm": 4, "done_count": 3, "total_count": 80}}},
            {"event": {"event_id": 2, "state": pb.EVALUATION_STATE_SUCCEEDED}},
        ],
        "GetEvaluation": {"evaluation": DONE},
        "ReadEvaluationReport": {
            "data": report,
            "size_bytes": len(report),
            "sha256": hashlib.sha256(report).hexdigest(),
        },
    }
    return services


async def test_an_evaluation_shows_means_and_differences_with_intervals(evaluated, luthier, tmp_path):
    report = tmp_path / "report.html"
    found = await luthier("evaluate", "style", "--arms", "base,adapter", "--limit", "80", "--report", report)
    assert found.code == 0
    assert found.out.splitlines()[0] == EVALUATION
    assert "0.470 [0.410, 0.530] (90% of rows)" in found.out
    assert "0.300 [0.200, 0.400]" in found.out
    assert "answer adapter 3/80" in found.err
    assert report.read_bytes() == b"<html>report</html>"
    [request] = evaluated.asked["CreateEvaluation"]
    assert request.evaluation.adapter_revision == ADAPTER_REVISION
    assert list(request.evaluation.config.arms) == [pb.ARM_BASE, pb.ARM_ADAPTER]
    assert request.evaluation.config.row_limit == 80


async def test_a_metric_that_no_row_has_is_no_zero(evaluated, luthier):
    lost = pb.MetricValue(metric="rubric", interval_low=float("nan"), interval_high=float("nan"), best_mean=1)
    alone = pb.MetricValue(metric="bleu", mean=0.25, coverage=1, interval_low=float("nan"), interval_high=float("nan"))
    arm = pb.ArmResult(arm=pb.ARM_ADAPTER, row_count=8, metrics=[lost, alone])
    evaluated.answers["GetEvaluation"] = {"evaluation": DONE | {"arms": [arm]}}
    found = await luthier("evaluate", "style")
    assert found.code == 0
    assert "no row has a score" in found.out
    assert "0.250 (no interval)" in found.out
    assert " nan" not in found.out


async def test_options_win_over_the_configuration_file(evaluated, luthier, tmp_path):
    (tmp_path / "e.yaml").write_text("arms: [rag]\nshot_count: 5\nsplit: holdout\n")
    options = ["--arms", "base", "--split", "validation", "--config", tmp_path / "e.yaml"]
    await luthier("evaluate", ADAPTER_REVISION, *options, "--dataset", "docs/r2", "--json")
    evaluation = evaluated.asked["CreateEvaluation"][0].evaluation
    assert evaluation.config == pb.EvaluationConfig(arms=[pb.ARM_BASE], shot_count=5, split="validation")
    assert evaluation.dataset_revision == "tenants/acme/datasets/docs/revisions/r2"


async def test_further_answerers_and_documents_are_named_by_options_and_bring_their_arms(evaluated, luthier):
    options = ["--documents", "handbook/r3", "--challenger", "style/r0", "--model-endpoint", "partner/large-3"]
    await luthier("evaluate", ADAPTER_REVISION, *options)
    config = evaluated.asked["CreateEvaluation"][0].evaluation.config
    assert config.passages == "tenants/acme/datasets/handbook/revisions/r3"
    assert config.challenger_revision == "tenants/acme/adapters/style/revisions/r0"
    assert (config.endpoint.endpoint, config.endpoint.model) == ("partner", "large-3")
    assert list(config.arms)[-2:] == [pb.ARM_CHALLENGER, pb.ARM_ENDPOINT]
    assert len(config.arms) == 7


async def test_named_arms_win_over_those_that_options_bring(evaluated, luthier):
    await luthier("evaluate", ADAPTER_REVISION, "--arms", "adapter_raft", "--raft-adapter", "raft/r2")
    config = evaluated.asked["CreateEvaluation"][0].evaluation.config
    assert list(config.arms) == [pb.ARM_ADAPTER_RAFT]
    assert config.raft_adapter_revision == "tenants/acme/adapters/raft/revisions/r2"


async def test_every_retriever_is_shown_with_what_it_was_judged_by(evaluated, luthier):
    figure = {"metric": "ndcg@3", "mean": 0.61, "interval_low": 0.55, "interval_high": 0.67}
    results = [{"retriever": number, "metrics": [figure]} for number in (1, 2, 3)]
    retrieval = {
        "chosen": pb.RETRIEVER_BM25,
        "judged_on": "validation",
        "relevance": "contains_answer",
        "cutoff": 3,
        "retrievers": results,
        "row_count": 90,
        "judged_row_count": 81,
    }
    evaluated.answers["GetEvaluation"] = {"evaluation": DONE | {"retrieval": retrieval}}
    found = await luthier("evaluate", "style/r1")
    assert "judged on 81 of 90 validation rows; relevant: contains answer" in found.out
    assert found.out.count("0.610 [0.550, 0.670]") == 3
    [used] = [line for line in found.out.splitlines() if "yes" in line.split()]
    assert "bm25" in used


async def test_with_json_the_last_line_is_the_evaluation(evaluated, luthier):
    found = await luthier("evaluate", "style/r1", "--json")
    assert [line["event"] for line in found.lines] == ["created", "progress", "state", "result"]
    assert found.lines[-1]["arms"][0]["metrics"][0]["metric"] == "rouge_l"


async def test_an_unknown_arm_is_refused_before_any_call(evaluated, luthier):
    found = await luthier("evaluate", "style", "--arms", "base,tuned")
    assert found.code == 64
    assert "adapter_rag" in found.err
    assert evaluated.asked == {}


async def test_a_report_of_a_detached_evaluation_is_refused(evaluated, luthier, tmp_path):
    assert (await luthier("evaluate", "style", "--detach", "--report", tmp_path / "r")).code == 64
    assert (await luthier("evaluate", "style", "--detach")).out == f"{EVALUATION}\n"


async def test_evaluating_an_adapter_without_a_revision_says_how_to_train_one(services, luthier):
    found = await luthier("evaluate", "style")
    assert found.code == 65
    assert "luthier train style" in found.err


@pytest.mark.parametrize(
    ("outcome", "condition", "code", "word"),
    [
        (gate_pb2.GATE_OUTCOME_GO, gate_pb2.CONDITION_OUTCOME_PASS, 0, "GO"),
        (gate_pb2.GATE_OUTCOME_NO_GO, gate_pb2.CONDITION_OUTCOME_BREACH, 1, "NO-GO"),
        (gate_pb2.GATE_OUTCOME_INCONCLUSIVE, gate_pb2.CONDITION_OUTCOME_INSUFFICIENT_EVIDENCE, 2, "INCONCLUSIVE"),
    ],
)
async def test_a_gates_outcome_is_the_exit_code(services, luthier, tmp_path, outcome, condition, code, word):
    (tmp_path / "p.yaml").write_text("conditions: [{metric: rouge_l, reference: base, at_least: 0}]\n")
    judged = {"metric": "rouge_l", "arm": pb.ARM_ADAPTER, "reference": pb.ARM_BASE, "at_least": 0.0, "tier": 1}
    decided = {"condition": judged, "outcome": condition, "estimate": 0.3, "explanation": "so it is"}
    services.answers["RunGate"] = {"decision": {"outcome": outcome, "conditions": [decided]}}
    found = await luthier("gate", "e1", "--policy", tmp_path / "p.yaml")
    assert (found.code, found.out.splitlines()[-1]) == (code, word)
    assert "adapter - base" in found.out
    [request] = services.asked["RunGate"]
    assert request.evaluation == EVALUATION
    assert request.inline_policy.conditions[0].reference == pb.ARM_BASE
    as_json = await luthier("gate", EVALUATION, "--policy", "tenants/acme/gatePolicies/p", "--json")
    assert as_json.code == code
    assert services.asked["RunGate"][1].gate_policy == "tenants/acme/gatePolicies/p"
