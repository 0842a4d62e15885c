from __future__ import annotations

from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import holdout_pb2

REVISION = "tenants/acme/datasets/docs/revisions/r2"
USE = {"access_count": 12, "false_go_bound": 0.6, "is_overused": True, "final_row_count": 40}


async def test_an_overused_holdout_is_shown_with_what_to_do(services, luthier):
    services.answers["GetHoldout"] = {
        "holdout": {"name": f"{REVISION}/holdout", "row_count": 200, "group_count": 60, "use": USE}
    }
    found = await luthier("holdout", "show", "docs/r2")
    assert found.code == 0
    assert "60%" in found.out
    assert "overused" in found.out
    [request] = services.asked["GetHoldout"]
    assert request.name == f"{REVISION}/holdout"


async def test_the_ledger_says_who_used_the_holdout_and_why(services, luthier):
    access = {
        "kind": holdout_pb2.HOLDOUT_ACCESS_KIND_EVALUATION,
        "is_counted": True,
        "evaluation": "tenants/acme/evaluations/e1",
        "subject": "ann",
        "purpose": "try rank 8",
    }
    services.answers["ListHoldoutAccesses"] = {"accesses": [access]}
    found = await luthier("holdout", "ledger", "docs/r2", "--json")
    assert '"subject": "ann"' in found.out
    assert '"purpose": "try rank 8"' in found.out


async def test_the_options_of_evaluate_reach_the_configuration(services, luthier):
    services.answers["CreateEvaluation"] = {"evaluation": {"name": "tenants/acme/evaluations/e1"}}
    options = ("--final", "--sequential", "--use-cache", "--purpose", "release 7", "--detach")
    found = await luthier("evaluate", "tenants/acme/adapters/a/revisions/r1", *options)
    assert found.code == 0
    [request] = services.asked["CreateEvaluation"]
    config = request.evaluation.config
    assert (config.final, config.use_cache, config.purpose) == (True, True, "release 7")
    assert config.sequential == pb.SequentialConfig()
    assert config.HasField("sequential")
