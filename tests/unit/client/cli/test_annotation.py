"""luthier annotate: a small loop for people, single steps for programs."""

from __future__ import annotations

import io

ITEM = {"item_id": "i00001", "question": "Which module?", "answers": ["stats", "linalg"]}
QUEUE = "tenants/acme/annotationQueues/q1"


async def test_a_queue_is_made_of_named_arms(services, luthier):
    services.answers["CreateAnnotationQueue"] = {"annotation_queue": {"name": QUEUE, "item_count": 7}}
    found = await luthier("annotate", "create", "e1", "--arms", "adapter, base", "--votes", "3", "--seed", "5")
    assert (found.code, found.out) == (0, f"{QUEUE}\n")
    [request] = services.asked["CreateAnnotationQueue"]
    queue = request.annotation_queue
    assert (queue.evaluation, list(queue.arms)) == ("tenants/acme/evaluations/e1", [4, 1])
    assert (queue.mode, queue.votes_per_item, queue.seed) == (1, 3, 5)
    unknown = await luthier("annotate", "create", "e1", "--arms", "adaptor,base")
    assert unknown.code == 64


async def test_a_person_judges_until_they_stop(services, luthier, monkeypatch):
    services.answers["GetNextAnnotationItem"] = {"item": ITEM, "waiting_count": 2}
    services.answers["RecordAnnotationVote"] = {"vote": {"item_id": "i00001"}}
    monkeypatch.setattr("sys.stdin", io.StringIO("2\nt\nq\n"))
    found = await luthier("annotate", "rate", "q1")
    assert found.code == 0, found.err
    assert "[answer 2]\nlinalg" in found.out
    assert "2 votes recorded" in found.err
    assert [request.vote.choice for request in services.asked["RecordAnnotationVote"]] == [2, 3]
    assert services.asked["RecordAnnotationVote"][0].parent == QUEUE


async def test_a_rating_is_a_number(services, luthier, monkeypatch):
    services.answers["GetNextAnnotationItem"] = {"item": ITEM | {"answers": ["stats"], "reference": "stats"}}
    services.answers["RecordAnnotationVote"] = {"vote": {"item_id": "i00001"}}
    monkeypatch.setattr("sys.stdin", io.StringIO("4\nq\n"))
    found = await luthier("annotate", "rate", "q1")
    assert found.code == 0, found.err
    assert "[expected]\nstats" in found.out
    assert [request.vote.rating for request in services.asked["RecordAnnotationVote"]] == [4]


async def test_a_program_takes_an_item_and_votes(services, luthier):
    services.answers["GetNextAnnotationItem"] = {"item": ITEM, "waiting_count": 2}
    services.answers["RecordAnnotationVote"] = {"vote": {"item_id": "i00001", "choice": 1}}
    found = await luthier("annotate", "next", "q1", "--json")
    assert found.lines[0]["item"]["answers"] == ["stats", "linalg"]
    voted = await luthier("annotate", "vote", "q1", "i00001", "left", "--comment", "shorter", "--json")
    assert voted.lines[0]["choice"] == "LEFT"
    [request] = services.asked["RecordAnnotationVote"]
    assert (request.vote.choice, request.vote.comment) == (1, "shorter")
    assert (await luthier("annotate", "rate", "q1", "--json")).code == 64


async def test_a_summary_stands_people_judge_and_correction_side_by_side(services, luthier):
    estimate = {"value": 0.75, "interval_low": 0.6, "interval_high": 0.85, "item_count": 40}
    figure = {
        "arm": 4,
        "reference": 1,
        "human": estimate,
        "judge": estimate,
        "corrected": estimate,
        "judge_weight": 0.8,
    }
    summary = {"vote_count": 48, "rater_count": 2, "rater_alpha": 0.9, "judge_metric": "rouge_l", "figures": [figure]}
    services.answers["GetAnnotationSummary"] = {"summary": summary}
    found = await luthier("annotate", "summary", "q1", "--judge", "rouge_l")
    assert found.code == 0
    assert found.out.count("0.750 [0.600, 0.850] (40)") == 3
    assert "adapter over base" in found.out
    [request] = services.asked["GetAnnotationSummary"]
    assert (request.name, request.judge_metric) == (QUEUE, "rouge_l")
