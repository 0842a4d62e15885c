from __future__ import annotations

import pytest
from luthier.evaluator.v1 import evaluation_pb2 as evaluation

PROMPT = "tenants/acme/prompts/p1"
FIGURE = {"metric": "rouge_l", "mean": 0.4, "interval_low": 0.3, "interval_high": 0.5, "coverage": 1.0}
FOUND = {
    "name": PROMPT,
    "state": evaluation.EVALUATION_STATE_SUCCEEDED,
    "instruction": "Be brief.",
    "examples": [{"row_id": "r7", "question": "q", "answer": "an answer"}],
    "score": FIGURE,
    "default_score": FIGURE | {"mean": 0.2, "interval_low": 0.1, "interval_high": 0.3},
    "trials": [{"instruction": "", "example_row_ids": ["r1"], "mean": 0.25, "row_count": 9}],
    "query_count": 400,
}
EVENTS = [
    {"event": {"event_id": 1, "state": evaluation.EVALUATION_STATE_RUNNING}},
    {"event": {"event_id": 2, "progress": {"done_count": 9, "total_count": 400}}},
    {"event": {"event_id": 3, "message": "candidate 0: rouge_l 0.250 on 9 rows more"}},
    {"event": {"event_id": 4, "state": evaluation.EVALUATION_STATE_SUCCEEDED}},
]


@pytest.fixture
def searched(services):
    services.answers |= {"CreatePrompt": {"prompt": {"name": PROMPT}}, "GetPrompt": {"prompt": FOUND}}
    services.answers["WatchPrompt"] = EVENTS
    return services


async def test_a_search_waits_and_shows_the_figure_beside_the_default_s(searched, luthier, tmp_path):
    (tmp_path / "s.yaml").write_text("instructions: [Be brief.]\nquery_budget: 50\n")
    options = ["--dataset", "docs/r2", "--budget", "400", "--config", tmp_path / "s.yaml"]
    found = await luthier("prompt", "optimise", "baseModels/tiny", *options)
    assert found.code == 0, found.err
    assert found.out.splitlines()[0] == PROMPT
    assert "rouge_l 0.400 [0.300, 0.500]" in found.out
    assert "rouge_l 0.200 [0.100, 0.300]" in found.out
    [request] = searched.asked["CreatePrompt"]
    assert request.prompt.base_model == "baseModels/tiny"
    assert request.prompt.dataset_revision == "tenants/acme/datasets/docs/revisions/r2"
    assert request.prompt.search.query_budget == 400
    assert list(request.prompt.search.instructions) == ["Be brief."]


async def test_a_search_is_watched_by_its_name_and_tells_what_each_candidate_scored(searched, luthier):
    found = await luthier("jobs", "watch", PROMPT)
    assert found.out == f"{PROMPT}\n"
    assert "candidate 0: rouge_l 0.250" in found.err
    as_json = await luthier("jobs", "watch", PROMPT, "--json")
    assert [line["event"] for line in as_json.lines] == ["state", "progress", "message", "state", "result"]


async def test_an_adapter_may_be_prompted_too_and_detach_returns_at_once(searched, luthier):
    found = await luthier("prompt", "optimise", "style/r1", "--dataset", "docs/r2", "--detach")
    assert found.out == f"{PROMPT}\n"
    assert searched.asked["CreatePrompt"][0].prompt.adapter_revision == "tenants/acme/adapters/style/revisions/r1"
    assert "GetPrompt" not in searched.asked


async def test_prompts_are_listed_shown_and_cancelled(searched, luthier):
    searched.answers |= {"ListPrompts": {"prompts": [FOUND]}, "CancelPrompt": {"prompt": FOUND}}
    assert "400" in (await luthier("prompt", "list")).out
    assert (await luthier("prompt", "show", "p1", "--json")).lines[0]["instruction"] == "Be brief."
    assert (await luthier("prompt", "cancel", "p1")).out == "SUCCEEDED\n"
