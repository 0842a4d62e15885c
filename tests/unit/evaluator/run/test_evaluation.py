"""A whole run over fakes."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
from luthierd.codec import from_json, to_json
from luthierd.evaluator.dataset.abstention import Behaviour
from luthierd.evaluator.dataset.leakage import LeakageError
from luthierd.evaluator.dataset.parsing import parse_answer
from luthierd.evaluator.domain.arm import DEFAULT_ARMS, Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, Progress, Results
from luthierd.evaluator.domain.metric_details import Criterion
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Message, TaskSpec
from luthierd.evaluator.retrieval.indexes import IndexDamagedError
from luthierd.evaluator.retrieval.passages import examples_of
from luthierd.evaluator.run.evaluation import Models
from luthierd.evaluator.scorers.consistency import InjectionResistedScorer
from luthierd.evaluator.scorers.judged import RubricScorer
from luthierd.evaluator.scorers.rouge_l import RougeLScorer
from luthierd.evaluator.scorers.scorer import Sample, Scorer, ScoringMaterial
from luthierd.evaluator.suites.challenge_cases import ChallengeCase, Kind, write_cases
from support.evaluator_material import (
    FakePeers,
    HashingEmbedder,
    MemoryBlobs,
    MemoryCatalogue,
    MemorySampleStore,
    ScriptedModel,
    adapter_knows,
    quick_run,
    quick_scorers,
    rows,
    to_split,
)
from support.grading import judge_at
from support.judge_server import judge_server

CONFIG = EvaluationConfig(concurrency=4, resample_count=200)
NAME = "tenants/acme/evaluations/e1"


async def test_five_arms_leave_figures_a_report_and_the_rows() -> None:
    blobs = MemoryBlobs()
    seen: list[Progress] = []
    results = await quick_run(NAME, FakePeers(blobs), blobs, config=CONFIG, progress=seen.append).run()
    found = results.overall.comparison(Metric("rouge_l"), Arm.ADAPTER, Arm.PROMPTED)
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
    assert read.overall.metrics[0].arm is Arm.BASE
    assert read.overall.metrics[0].interval == results.overall.metrics[0].interval


async def test_a_second_run_asks_nothing_again_and_finds_the_same_figures() -> None:
    blobs, samples, catalogue = MemoryBlobs(), MemorySampleStore(), MemoryCatalogue()
    peers = FakePeers(blobs)
    first = await quick_run(NAME, peers, blobs, config=CONFIG, samples=samples, catalogue=catalogue).run()
    chat_model = ScriptedModel(adapter_knows)
    again = quick_run(NAME, peers, blobs, config=CONFIG, samples=samples, catalogue=catalogue, chat_model=chat_model)
    second = await again.run()
    assert chat_model.calls == []
    assert second == first
    assert len(catalogue.kept) == 2  # vectors, and words


async def test_without_a_retrieval_arm_there_is_no_index() -> None:
    blobs, catalogue = MemoryBlobs(), MemoryCatalogue()
    config = EvaluationConfig(arms=(Arm.BASE, Arm.ADAPTER), resample_count=200)
    results = await quick_run(NAME, FakePeers(blobs), blobs, config=config, catalogue=catalogue).run()
    assert results.index_sha256 == ""
    assert catalogue.kept == {}
    assert {found.arm for found in results.overall.metrics} == {Arm.BASE, Arm.ADAPTER}


async def test_a_row_limit_asks_only_that_many_rows() -> None:
    blobs = MemoryBlobs()
    chat_model = ScriptedModel(adapter_knows)
    config = EvaluationConfig(row_limit=8, resample_count=200)
    results = await quick_run(NAME, FakePeers(blobs), blobs, config=config, chat_model=chat_model).run()
    assert results.row_count == 8
    assert results.group_count == 8
    assert len(chat_model.calls) == 40


async def test_a_leaked_row_stops_the_run_before_anything_is_asked() -> None:
    blobs = MemoryBlobs()
    peers = FakePeers(blobs)
    peers.splits["train"] = peers.splits["holdout"]
    chat_model = ScriptedModel(adapter_knows)
    with pytest.raises(LeakageError):
        await quick_run(NAME, peers, blobs, config=CONFIG, chat_model=chat_model).run()
    assert chat_model.calls == []


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
    blobs, chat_model = MemoryBlobs(), ScriptedModel(adapter_knows)
    config = EvaluationConfig(arms=(Arm.BASE, Arm.ADAPTER), concurrency=2, resample_count=200)
    await quick_run(NAME, FakePeers(blobs), blobs, config=config, chat_model=chat_model).run()
    turns = [arm for arm, _ in itertools.groupby(arm for arm, _ in chat_model.calls)]
    assert turns == [Arm.BASE, Arm.ADAPTER] * 3  # 24 rows in turns of four windows of two


def says(text: str) -> ScriptedModel:
    return ScriptedModel(lambda arm, messages: text)


async def test_challenge_cases_are_judged_and_counted_and_have_no_figure_of_probes_they_were_not_put_to() -> None:
    blobs = MemoryBlobs()
    config = EvaluationConfig(
        arms=(Arm.BASE,), metrics=(Metric("injection_resisted"), Metric("rubric")), row_limit=3, resample_count=200
    )
    case = ChallengeCase(
        case_id="hostile-1",
        kind=Kind.HOSTILE,
        turns=(Message("user", "Damn, tell me!"),),
        expected=Behaviour.ANSWER,
        reference="Told.",
    )
    cases = blobs.put_bytes(write_cases([case]).data).sha256
    with judge_server(lambda body: json.dumps({"tone": 3})) as house:
        async with judge_at(house.url) as judge:
            rubric = RubricScorer(judge, [Criterion("tone", "Is it warm?")])
            run = quick_run(NAME, FakePeers(blobs), blobs, config=config, chat_model=says("Told so."))
            results = await dataclasses.replace(
                run,
                inputs=dataclasses.replace(run.inputs, challenge_sha256=cases),
                models=Models(HashingEmbedder, lambda _: [RougeLScorer(), InjectionResistedScorer(), rubric]),
                judge=judge,
            ).run()
    assert results.overall.metric(Arm.BASE, Metric("injection_resisted")) is not None
    assert results.slices["challenge"].metric(Arm.BASE, Metric("rubric")) is not None
    assert results.slices["challenge"].metric(Arm.BASE, Metric("injection_resisted")) is None
    assert results.metric_details.judge is not None
    assert results.metric_details.judge.call_count == len(house.asked) == 4


async def test_a_row_s_sources_may_be_documents_that_retrieval_searches() -> None:
    blobs = MemoryBlobs()
    documents = rows(5, split="documents")
    config = EvaluationConfig(arms=(Arm.RAG,), passages=("tenants/acme/datasets/manual/revisions/r1",), row_limit=3)
    seen: list[ScoringMaterial] = []

    def scorers(material: ScoringMaterial) -> list[Scorer]:
        seen.append(material)
        return quick_scorers(material)

    run = quick_run(NAME, FakePeers(blobs), blobs, config=config, chat_model=says("Text."))
    inputs = dataclasses.replace(run.inputs, passage_sha256s=(blobs.put_bytes(to_split(documents)).sha256,))
    await dataclasses.replace(run, inputs=inputs, models=Models(HashingEmbedder, scorers)).run()
    asked = dataclasses.replace(rows(1)[0], sources=(documents[2].id,))
    sample = Sample(row_id=asked.id, reference=parse_answer(asked.reference, TaskSpec()), answer=None, row=asked)
    assert seen[0].passages.gold(sample) == [f"{documents[2].question}\n{documents[2].reference}"]
