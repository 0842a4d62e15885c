"""Retrieval of one evaluation: the indexes (each built once for a corpus), the retriever that is strongest on rows that
are not evaluated, and what it finds for those that are.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from luthierd.evaluator.dataset.parsing import parse_answer
from luthierd.evaluator.dataset.rows import parse_rows, select_rows
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs
from luthierd.evaluator.domain.retrieval import Passage, RetrievalSummary, Retriever, RetrieverResult
from luthierd.evaluator.domain.rows import Row, TaskSpec
from luthierd.evaluator.retrieval.indexes import (
    NOTHING,
    Bm25Index,
    DenseIndex,
    Ranking,
    TextEmbedder,
    bm25_digest,
    fuse,
)
from luthierd.evaluator.retrieval.passages import Corpus, corpus_of, examples_of, passages_of
from luthierd.evaluator.retrieval.relevance import JudgedRows, qrels_of, retrieval_metrics
from luthierd.storage.blob_errors import BlobCorruptError, BlobNotFoundError
from luthierd.storage.blobs import BlobStore

log = logging.getLogger(__name__)

MAX_JUDGED_ROWS = 200
"""Rows that the retriever is chosen on. At 200 a difference of .07 in nDCG shows; each costs an embedding (16 ms)."""
FUSION_DEPTH = 100
"""How deep each ranking goes into the fusion."""

Index = TypeVar("Index", DenseIndex, Bm25Index)


class IndexCatalogue(Protocol):
    """Which blob holds the index of a corpus, made by a method: an embedder, or BM25."""

    async def find(self, tenant: str, train_sha256: str, embedder_sha256: str) -> str | None: ...

    async def add(self, tenant: str, train_sha256: str, embedder_sha256: str, *, blob_sha256: str) -> None: ...


@dataclass(frozen=True)
class Retrieved:
    """What the chosen retriever found, by row id, best first: training rows as examples, or pieces of documents."""

    examples: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    passages: Mapping[str, Sequence[Passage]] = field(default_factory=dict)


@dataclass(frozen=True)
class Texts:
    """What is searched. Exactly one of `examples` and `passages` is there; `answers` is what each text can tell."""

    corpus: Corpus
    examples: Sequence[Row]
    passages: Sequence[Passage]
    documents: Sequence[Row] = ()

    @property
    def answers(self) -> list[str]:
        return [row.reference for row in self.examples] or [passage.text for passage in self.passages]


@dataclass(frozen=True)
class _Searcher:
    """Every retriever over one corpus."""

    dense: DenseIndex | None
    bm25: Bm25Index | None
    embedder: TextEmbedder

    def rank(self, questions: Sequence[str], *, count: int) -> dict[Retriever, Ranking]:
        depth = max(count, FUSION_DEPTH)
        found: dict[Retriever, Ranking] = {}
        if self.dense is not None:
            found[Retriever.DENSE] = self.dense.rank(self.embedder.embed(questions), count=depth)
        if self.bm25 is not None:
            found[Retriever.BM25] = self.bm25.rank(questions, count=depth)
        if len(found) == len(Retriever) - 1:
            found[Retriever.FUSED] = fuse(list(found.values()), count=depth)
        return found

    def sha256(self, retriever: Retriever) -> str:
        used = {Retriever.DENSE: (self.dense,), Retriever.BM25: (self.bm25,), Retriever.FUSED: (self.dense, self.bm25)}
        digests = [index.sha256 for index in used[retriever] if index is not None]
        return digests[0] if len(digests) == 1 else hashlib.sha256(json.dumps(digests).encode()).hexdigest()


@dataclass(frozen=True)
class Finder:
    """The chosen retriever over what is searched."""

    texts: Texts
    searcher: _Searcher
    summary: RetrievalSummary

    @property
    def index_sha256(self) -> str:
        return self.searcher.sha256(self.summary.chosen)

    def find(self, rows: Sequence[Row]) -> Retrieved:
        """What is shown with each row. Holds the CPU: call it in a thread."""
        count = self.summary.cutoff
        ranking = self.searcher.rank([row.question for row in rows], count=count)[self.summary.chosen][:, :count]
        places = {
            row.id: [position for position in found if position != NOTHING]
            for row, found in zip(rows, ranking.tolist(), strict=True)
        }
        if self.texts.passages:
            passages = self.texts.passages
            return Retrieved(passages={row: [passages[at] for at in found] for row, found in places.items()})
        examples = self.texts.examples
        return Retrieved(examples={row: [examples[at] for at in found] for row, found in places.items()})


@dataclass(frozen=True)
class Retrieval:
    """Retrieval for one evaluation. Everything may be repeated after a crash: the same input gives the same finds."""

    tenant: str
    inputs: EvaluationInputs
    config: EvaluationConfig
    blobs: BlobStore
    catalogue: IndexCatalogue

    async def finder(
        self, rows: Sequence[Row], train: Sequence[Row], task: TaskSpec, embedder: TextEmbedder
    ) -> Finder | None:
        """What finds what is shown with `rows` and others; None if nothing is shown."""
        if self.config.shot_count == 0:
            return None
        texts = await asyncio.to_thread(self._texts, rows, train)
        searcher = await self._searcher(texts.corpus, embedder)
        summary = await asyncio.to_thread(self._choose, texts, searcher, train, task)
        return Finder(texts, searcher, summary)

    def _texts(self, rows: Sequence[Row], train: Sequence[Row]) -> Texts:
        if not self.config.passages:
            return Texts(examples_of(train), train, ())
        documents = [
            row
            for sha256 in self.inputs.passage_sha256s
            for row in parse_rows(self.blobs.read_bytes(sha256), split="documents")
        ]
        passages = passages_of(documents, max_characters=self.config.passage_characters)
        return Texts(corpus_of(passages), (), passages, documents)

    async def _searcher(self, corpus: Corpus, embedder: TextEmbedder) -> _Searcher:
        wanted, dense, bm25 = set(self.config.retrievers), None, None
        if wanted & {Retriever.DENSE, Retriever.FUSED}:
            dense = await self._index(
                corpus, embedder.digest, lambda: DenseIndex.build(corpus, embedder), DenseIndex.deserialise
            )
        if wanted & {Retriever.BM25, Retriever.FUSED}:
            bm25 = await self._index(corpus, bm25_digest(), lambda: Bm25Index.build(corpus), Bm25Index.deserialise)
        return _Searcher(dense, bm25, embedder)

    async def _index(
        self, corpus: Corpus, method: str, build: Callable[[], Index], read: Callable[[bytes, Corpus], Index]
    ) -> Index:
        """An index; built once for a corpus and a method, and again if its blob is gone or damaged."""
        key = (self.tenant, corpus.sha256, method)
        blob_sha256 = await self.catalogue.find(*key)
        if blob_sha256 is not None:
            try:
                data = await asyncio.to_thread(self.blobs.read_bytes, blob_sha256)
            except (BlobNotFoundError, BlobCorruptError) as error:
                log.warning("an index is built again", extra={"reason": error.reason, "sha256": blob_sha256})
            else:
                return await asyncio.to_thread(read, data, corpus)
        index = await asyncio.to_thread(build)
        blob = await asyncio.to_thread(lambda: self.blobs.put_bytes(index.serialise()))
        await self.catalogue.add(*key, blob_sha256=blob.sha256)
        return index

    def _choose(self, texts: Texts, searcher: _Searcher, train: Sequence[Row], task: TaskSpec) -> RetrievalSummary:
        """Measures every retriever on rows that are not evaluated; the greatest nDCG is chosen."""
        judged_on, judged = self._judged(texts, train, task)
        cutoff = self.config.shot_count
        qrels = qrels_of(judged, texts.corpus.ids, texts.answers, documents=bool(self.config.passages), cutoff=cutoff)
        # One more than is looked at: a row finds itself first, and that is taken out.
        rankings = searcher.rank([row.question for row in judged.rows], count=cutoff + 1)
        measured = []
        for retriever in (one for one in Retriever if one in self.config.retrievers):
            ranking = _without(rankings[retriever], judged.own)
            n_resamples = self.config.resample_count
            metrics = retrieval_metrics(
                qrels, ranking, judged.rows, cutoff=cutoff, seed=self.config.seed, n_resamples=n_resamples
            )
            measured.append(RetrieverResult(retriever, tuple(metrics), searcher.sha256(retriever)))
        ndcg = f"ndcg@{cutoff}"
        best = max(measured, key=lambda one: one.value(ndcg) if one.metrics else 0.0)
        return RetrievalSummary(
            chosen=best.retriever,
            judged_on=judged_on,
            relevance=qrels.relevance,
            cutoff=cutoff,
            retrievers=tuple(measured),
            row_count=len(judged.rows),
            judged_count=len(qrels.judged),
        )

    def _judged(self, texts: Texts, train: Sequence[Row], task: TaskSpec) -> tuple[str, JudgedRows]:
        rows, judged_on = list(train), "train"
        if self.inputs.validation_sha256 and self.config.split != "validation":
            rows = parse_rows(self.blobs.read_bytes(self.inputs.validation_sha256), split="validation")
            judged_on = "validation"
        rows = select_rows(rows, MAX_JUDGED_ROWS, seed=self.config.seed)
        # Examples are compared as they are shown; of a document only the answer's text can be in it.
        answers = [parse_answer(row.reference, task).text if self.config.passages else row.reference for row in rows]
        places = {row.id: at for at, row in enumerate(texts.examples)} if judged_on == "train" else {}
        return judged_on, JudgedRows(rows, answers, [places.get(row.id, NOTHING) for row in rows])


def _without(ranking: Ranking, own: Sequence[int]) -> Ranking:
    """The ranking without each row's own position."""
    kept = np.full_like(ranking, NOTHING)
    for at, (found, position) in enumerate(zip(ranking.tolist(), own, strict=True)):
        others = [one for one in found if one != NOTHING and one != position]
        kept[at, : len(others)] = others
    return kept
