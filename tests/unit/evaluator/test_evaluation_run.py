"""A whole run over fakes."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
from evaluator_material import (
    FakePeers,
    MemoryBlobs,
    MemoryCatalogue,
    MemoryJournal,
    ScriptedAnswerer,
    adapter_knows,
    quick_run,
    rows,
)
from luthierd.evaluator.codec import from_json, to_json
from luthierd.evaluator.domain import DEFAULT_ARMS, Arm, EvaluationConfig, Metric, Progress, Results
from luthierd.evaluator.holdouts.leakage import LeakageError
from luthierd.evaluator.retrieval.indexes import IndexDamagedError
from luthierd.evaluator.retrieval.passages import examples_of

CONFIG = EvaluationConfig(concurrency=4, resample_count=200)
NAME = "tenants/acme/evaluations/e1"


async def test_five_arms_leave_figures_a_report_and_the_rows() -> None:
    blobs = MemoryBlobs()
    seen: list[Progress] = []
    results = await quick_run(NAME, FakePeers(blobs), blobs, config=CONFIG, progress=seen.append).run()
    found = results.figures.comparison(Metric.ROUGE_L, Arm.ADAPTER, Arm.PROMPTED)
    assert found is not None
    assert found.interval is not None
    assert found.interval.low > 0
    assert {cost.arm for cost in results.costs} == set(DEFAULT_ARMS)
    assert b"GO" in blobs.kept[results.report_sha256]
    lines = blobs.kept[results.answers_sha256].splitlines()
    assert len(lines) == 24 == results.row_count
    assert len(json.loads(lines[0])["answers"][2]["shown_row_ids"]) == 3
    assert [progress.phase for progress in seen if progress.phase != "answer"] == ["index", "score", "report"]
    assert seen[-1].done_count == seen[-1].total_count == 24 * 5


async def test_results_survive_the_database() -> None:
    blobs = MemoryBlobs()
    results = await quick_run(NAME, FakePeers(blobs), blobs, config=CONFIG).run()
    read = from_json(Results, json.loads(json.dumps(to_json(results))))
    assert to_json(read) == to_json(results)
    assert read.figures.metrics[0].arm is Arm.BASE
    assert read.figures.metrics[0].interval == results.figures.metrics[0].interval


async def test_a_second_run_asks_nothing_again_and_finds_the_same_figures() -> None:
    blobs, journal, catalogue = MemoryBlobs(), MemoryJournal(), MemoryCatalogue()
    peers = FakePeers(blobs)
    first = await quick_run(NAME, peers, blobs, config=CONFIG, journal=journal, catalogue=catalogue).run()
    answerer = ScriptedAnswerer(adapter_knows)
    again = quick_run(NAME, peers, blobs, config=CONFIG, journal=journal, catalogue=catalogue, answerer=answerer)
    second = await again.run()
    assert answerer.calls == []
    assert second == first
    assert len(catalogue.kept) == 2  # vectors, and words


async def test_without_a_retrieval_arm_there_is_no_index() -> None:
    blobs, catalogue = MemoryBlobs(), MemoryCatalogue()
    config = EvaluationConfig(arms=(Arm.BASE, Arm.ADAPTER), resample_count=200)
    results = await quick_run(NAME, FakePeers(blobs), blobs, config=config, catalogue=catalogue).run()
    assert results.index_sha256 == ""
    assert catalogue.kept == {}
    assert {found.arm for found in results.figures.metrics} == {Arm.BASE, Arm.ADAPTER}


async def test_a_row_limit_asks_only_that_many_rows() -> None:
    blobs = MemoryBlobs()
    answerer = ScriptedAnswerer(adapter_knows)
    config = EvaluationConfig(row_limit=8, resample_count=200)
    results = await quick_run(NAME, FakePeers(blobs), blobs, config=config, answerer=answerer).run()
    assert results.row_count == 8
    assert results.group_count == 8
    assert len(answerer.calls) == 40


async def test_a_leaked_row_stops_the_run_before_anything_is_asked() -> None:
    blobs = MemoryBlobs()
    peers = FakePeers(blobs)
    peers.splits["train"] = peers.splits["holdout"]
    answerer = ScriptedAnswerer(adapter_knows)
    with pytest.raises(LeakageError):
        await quick_run(NAME, peers, blobs, config=CONFIG, answerer=answerer).run()
    assert answerer.calls == []


async def test_a_row_that_the_adapter_learned_from_another_dataset_is_refused_too() -> None:
    blobs = MemoryBlobs()
    peers = FakePeers(blobs)
    run = quick_run(NAME, peers, blobs, config=CONFIG)
    learned = dataclasses.replace(run.inputs, trained_sha256=peers.splits["holdout"])
    with pytest.raises(LeakageError):
        await dataclasses.replace(run, inputs=learned).run()


async def test_a_holdout_row_among_the_documents_is_refused_as_part_of_the_index() -> None:
    blobs = MemoryBlobs()
    peers = FakePeers(blobs)
    run = quick_run(NAME, peers, blobs, config=CONFIG)
    told = dataclasses.replace(run.inputs, passage_sha256s=(peers.splits["holdout"],))
    with pytest.raises(LeakageError) as caught:
        await dataclasses.replace(run, inputs=told).run()
    assert caught.value.metadata["other_set"] == "index"


async def test_a_stored_index_of_other_rows_is_refused() -> None:
    blobs, catalogue = MemoryBlobs(), MemoryCatalogue()
    peers = FakePeers(blobs, train=30)
    await quick_run(NAME, peers, blobs, config=CONFIG, catalogue=catalogue).run()
    larger, corpus = FakePeers(blobs, train=33), examples_of(rows(33, split="train"))
    catalogue.kept = {(tenant, corpus.sha256, method): blob for (tenant, _, method), blob in catalogue.kept.items()}
    with pytest.raises(IndexDamagedError):
        await quick_run(NAME, larger, blobs, config=CONFIG, catalogue=catalogue).run()


async def test_arms_take_turns_so_that_all_meet_the_same_machine() -> None:
    blobs, answerer = MemoryBlobs(), ScriptedAnswerer(adapter_knows)
    config = EvaluationConfig(arms=(Arm.BASE, Arm.ADAPTER), concurrency=2, resample_count=200)
    await quick_run(NAME, FakePeers(blobs), blobs, config=config, answerer=answerer).run()
    turns = [arm for arm, _ in itertools.groupby(arm for arm, _ in answerer.calls)]
    assert turns == [Arm.BASE, Arm.ADAPTER] * 3  # 24 rows in turns of four windows of two
