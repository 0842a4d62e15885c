from __future__ import annotations

import re

import pytest
from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import verdict_pb2

EVALUATION = "tenants/acme/evaluations/e1"
QUALITY = {"metric": "rouge_l", "mean": 0.4, "interval_low": 0.3, "interval_high": 0.5, "coverage": 1.0}
VERDICT = {
    "evaluation": EVALUATION,
    "preferences": {"metric": "rouge_l"},
    "recommended": pb.ARM_ADAPTER,
    "certainty": verdict_pb2.VERDICT_CERTAINTY_PROVED,
    "headline": "Fine-tune.",
    "reasons": ["base is worse than adapter."],
    "options": [
        {
            "arm": pb.ARM_ADAPTER,
            "standing": verdict_pb2.OPTION_STANDING_RECOMMENDED,
            "quality": QUALITY,
            "refresh": "train again",
            "refresh_duration": {"seconds": 180},
        }
    ],
}


@pytest.mark.parametrize(("recommended", "code"), [(pb.ARM_ADAPTER, 0), (pb.ARM_UNSPECIFIED, 2)])
async def test_a_verdict_says_what_to_do_and_why_and_its_exit_code_whether_it_could(
    services, luthier, recommended, code
):
    services.answers["DecideVerdict"] = {"verdict": VERDICT | {"recommended": recommended}}
    found = await luthier("verdict", "e1", "--worth", "0.02", "--max-price", "0.5")
    assert found.code == code
    assert found.out.startswith("Fine-tune.\n")
    assert "0.400 [0.300, 0.500]" in found.out
    assert "train again (180 s)" in found.out
    assert "- base is worse than adapter." in found.out
    [request] = services.asked["DecideVerdict"]
    assert request.evaluation == EVALUATION
    assert request.preferences == verdict_pb2.VerdictPreferences(worth=0.02, max_price_per_1000=0.5)


async def test_a_comparison_shows_differences_and_what_else_differs(services, luthier):
    difference = {
        "metric": "rouge_l",
        "arm": pb.ARM_ADAPTER,
        "reference": pb.ARM_ADAPTER,
        "difference": 0.1,
        "interval_low": 0.05,
        "interval_high": 0.15,
        "row_count": 40,
        "group_count": 20,
    }
    change = {"subject": "versions.ragas", "evaluation_value": "2", "reference_value": "1", "affects_scoring": True}
    services.answers["CompareEvaluations"] = {
        "differences": [difference],
        "common_row_count": 40,
        "only_reference_row_count": 3,
        "changes": [change],
        "not_compared": [{"subject": "suite retention", "reason": "only the evaluation has it"}],
    }
    found = await luthier("compare", "e1", "e2")
    assert found.code == 0
    assert "0.100 [0.050, 0.150]" in found.out
    assert "40 common rows, 3 others left out" in found.out
    assert "versions.ragas" in found.out
    assert "affects scores" in found.out
    assert re.search(r"suite retention.*only the evaluation has it", found.out)
    [request] = services.asked["CompareEvaluations"]
    assert (request.evaluation, request.reference) == (EVALUATION, "tenants/acme/evaluations/e2")
