"""Which retriever is used and by what figures, and what the arms see of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from luthierd.codec import from_json, to_json
from luthierd.evaluator.api import metric_wire
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs, Results
from luthierd.evaluator.domain.retrieval import Passage, Relevance, RetrievalSummary, Retriever
from luthierd.evaluator.domain.rows import Message, Row, TaskSpec
from luthierd.evaluator.models.arms import ArmPlan, with_documents
from luthierd.evaluator.retrieval.indexes import NOTHING
from luthierd.evaluator.retrieval.relevance import JudgedRows, Qrels, qrels_of, retrieval_metrics
from luthierd.evaluator.retrieval.run import Retrieval
from support.evaluator_material import (
    FakePeers,
    HashingEmbedder,
    MemoryBlobs,
    MemoryCatalogue,
    ScriptedModel,
    adapter_knows,
    quick_run,
    row,
    rows,
    to_split,
)

CONFIG = EvaluationConfig(arms=(Arm.BASE, Arm.RAG), concurrency=4, resample_count=200)
TOPICS = ("heron", "quartz", "violin", "glacier", "saffron", "turbine", "orchid", "anvil", "comet", "lagoon")


def fact(number: int, split: str) -> Row:
    """A question whose words are in one document only, with that document's fact as the answer."""
    topic = TOPICS[number % len(TOPICS)]
    return Row(
        id=f"{split}-{number}",
        group=f"{split}-{number}",
        label=None,
        prompt=(Message("user", f"what of the {topic} {split}"),),
        reference=f"code {topic} seven",
    )


def document(number: int) -> Row:
    topic = TOPICS[number]
    text = f"About the {topic}.\n\nThe record says code {topic} seven, as all know."
    return Row(
        id=f"doc-{number}",
        group=f"doc-{number}",
        label=None,
        prompt=(Message("user", f"volume {number}"),),
        reference=text,
    )


class Found(NamedTuple):
    summary: RetrievalSummary
    examples: Mapping[str, Sequence[Row]]
    passages: Mapping[str, Sequence[Passage]]


async def retrieve(
    evaluated: Sequence[Row],
    train: Sequence[Row],
    config: EvaluationConfig,
    *,
    validation: Sequence[Row] = (),
    documents: Sequence[Row] = (),
    catalogue: MemoryCatalogue | None = None,
) -> Found:
    blobs = MemoryBlobs()
    inputs = EvaluationInputs(
        adapter_revision="a",
        adapter_sha256="a",
        base_model="b",
        base_model_sha256="b",
        dataset_revision="d",
        dataset_sha256="d",
        rows_sha256="r",
        train_sha256="t",
        trained_sha256="t",
        validation_sha256=blobs.put_bytes(to_split(validation)).sha256 if validation else "",
        passage_sha256s=(blobs.put_bytes(to_split(documents)).sha256,) if documents else (),
    )
    retrieval = Retrieval("acme", inputs, config, blobs, catalogue or MemoryCatalogue())
    finder = await retrieval.finder(evaluated, train, TaskSpec(), HashingEmbedder())
    assert finder is not None
    found = finder.find(evaluated)
    return Found(finder.summary, found.examples, found.passages)


DOCUMENTS = dataclasses.replace(CONFIG, passages="tenants/acme/datasets/docs/revisions/r1", shot_count=2)


async def test_documents_that_hold_the_answer_are_found_and_all_three_retrievers_are_reported() -> None:
    found = await retrieve(
        [fact(1, "holdout")],
        [fact(number, "train") for number in range(10)],
        DOCUMENTS,
        validation=[fact(number, "validation") for number in range(10)],
        documents=[document(number) for number in range(10)],
    )
    assert found.summary.relevance is Relevance.CONTAINS_ANSWER
    assert (found.summary.judged_on, found.summary.judged_count, found.summary.row_count) == ("validation", 10, 10)
    assert [one.retriever for one in found.summary.retrievers] == list(Retriever)
    bm25 = found.summary.retrievers[1]
    assert [figure.metric for figure in bm25.metrics] == ["recall@2", "ndcg@2", "mrr"]
    assert bm25.value("mrr") == 1.0
    assert bm25.metrics[0].low is not None
    assert found.passages["holdout-1"][0].id == "doc-1"
    assert found.examples == {}


async def test_a_row_that_names_its_documents_is_judged_by_them() -> None:
    named = JudgedRows([dataclasses.replace(fact(1, "v"), sources=("doc-1",))], ["code quartz seven"], [NOTHING])
    ids = ["doc-0", "doc-1", "doc-1"]
    judgement = qrels_of(named, ids, ["x", "y", "code quartz seven"], documents=True, cutoff=2)
    assert judgement.relevance is Relevance.GOLD_PASSAGES
    assert judgement.grades == {"v-1": {"doc-1": 1}}
    # Two pieces of one document are one find, at the better place.
    figures = retrieval_metrics(judgement, np.array([[0, 1, 2]]), named.rows, cutoff=2, seed=0, n_resamples=100)
    assert {figure.metric: figure.value for figure in figures} == pytest.approx(
        {"recall@2": 1.0, "ndcg@2": 1 / np.log2(3), "mrr": 0.5}
    )


def test_figures_are_those_of_the_definitions_and_a_row_without_a_find_scores_zero() -> None:
    found = Qrels(Relevance.SIMILAR_REFERENCE, {"holdout-0": {"0": 3, "2": 1}, "holdout-1": {"1": 1}}, "012")
    ranking = np.array([[2, 1, 0], [NOTHING, NOTHING, NOTHING]])
    figures = retrieval_metrics(found, ranking, rows(2), cutoff=2, seed=0, n_resamples=100)
    ideal = 3 + 1 / np.log2(3)
    assert {figure.metric: figure.value for figure in figures} == pytest.approx(
        {"recall@2": 0.25, "ndcg@2": 1 / ideal / 2, "mrr": 0.5}
    )


def test_similar_references_are_graded_by_common_words_and_a_row_is_no_find_for_itself() -> None:
    judged = JudgedRows(rows(1), ["a b c d"], [0])
    judgement = qrels_of(judged, list("wxyz"), ["a b c d", "a b c x", "q", "a y z u"], documents=False, cutoff=1)
    assert judgement.relevance is Relevance.SIMILAR_REFERENCE
    assert judgement.grades["holdout-0"] == {
        "1": 8
    }  # Dice 6 / 8; itself is out, the rest is further than what is shown


def test_a_reference_that_stands_everywhere_judges_nothing() -> None:
    judged = JudgedRows(rows(1), ["yes"], [NOTHING])
    judgement = qrels_of(judged, [str(at) for at in range(20)], ["yes and no"] * 20, documents=True, cutoff=1)
    assert judgement.relevance is Relevance.SIMILAR_REFERENCE


async def test_without_validation_rows_each_training_row_searches_all_others() -> None:
    train = rows(40, split="train")
    found = await retrieve(rows(5), train, CONFIG)
    assert found.summary.judged_on == "train"
    assert all(one.value("mrr") < 1.0 for one in found.summary.retrievers)
    assert {len(shown) for shown in found.examples.values()} == {3}


async def test_the_split_under_evaluation_never_chooses() -> None:
    config = dataclasses.replace(CONFIG, split="validation")
    found = await retrieve(rows(5), rows(40, split="train"), config, validation=rows(5))
    assert found.summary.judged_on == "train"


async def test_one_retriever_alone_builds_one_index() -> None:
    catalogue = MemoryCatalogue()
    config = dataclasses.replace(CONFIG, retrievers=(Retriever.BM25,))
    found = await retrieve(rows(5), rows(40, split="train"), config, catalogue=catalogue)
    assert found.summary.chosen is Retriever.BM25
    assert len(catalogue.kept) == 1


async def test_an_index_whose_blob_is_gone_is_built_again() -> None:
    catalogue = MemoryCatalogue()
    first = await retrieve(rows(5), rows(40, split="train"), CONFIG, catalogue=catalogue)
    again = await retrieve(rows(5), rows(40, split="train"), CONFIG, catalogue=catalogue)  # over an empty store
    assert again.summary == first.summary


def test_documents_stand_before_the_last_question_and_rag_keeps_the_fixed_examples() -> None:
    passages = {"holdout-1": [Passage("doc-1", "The text.", "volume 1"), Passage("doc-2", "Another.")]}
    plan = ArmPlan(fixed=rows(2, split="train"), passages=passages)
    query = plan.query(Arm.RAG, row(1))
    assert query.messages[-1].content.startswith("Documents:\n\n[1] volume 1\nThe text.\n\n[2] Another.\n\nQuestion:\n")
    assert query.messages[-1].content.endswith(row(1).question)
    assert query.shown_row_ids == ("train-0", "train-1", "doc-1", "doc-2")
    raft = plan.query(Arm.ADAPTER_RAFT, row(1))
    assert [turn.role for turn in raft.messages] == ["user"]
    assert raft.messages[-1] == query.messages[-1]
    assert plan.query(Arm.PROMPTED, row(1)).messages[-1].content == row(1).question
    assert with_documents(row(1).prompt, []) == row(1).prompt


async def test_a_whole_run_reports_its_retrieval_in_its_results_and_over_the_wire() -> None:
    blobs = MemoryBlobs()
    peers = FakePeers(blobs)
    chat_model = ScriptedModel(adapter_knows)
    run = quick_run("tenants/acme/evaluations/e1", peers, blobs, config=DOCUMENTS, chat_model=chat_model)
    documents = blobs.put_bytes(to_split([document(number) for number in range(10)])).sha256
    inputs = dataclasses.replace(run.inputs, passage_sha256s=(documents,))
    results = await dataclasses.replace(run, inputs=inputs).run()
    assert results.retrieval is not None
    assert from_json(Results, to_json(results)).retrieval == results.retrieval
    message = metric_wire.retrieval_to_proto(results.retrieval)
    assert [len(found.metrics) for found in message.retrievers] == [3, 3, 3]
    asked = [messages[-1].content for arm, messages in chat_model.calls if arm is Arm.RAG]
    assert asked
    assert all(text.startswith("Documents:") for text in asked)
