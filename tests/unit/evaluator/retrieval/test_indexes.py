"""Indexes: what they find, that they survive storage, and how rankings are fused."""

from __future__ import annotations

import dataclasses

import faiss
import numpy as np
import pytest
from luthierd.evaluator.retrieval.indexes import (
    NOTHING,
    Bm25Index,
    DenseIndex,
    IndexDamagedError,
    SqlIndexCatalogue,
    fuse,
)
from luthierd.evaluator.retrieval.passages import Corpus, cut, examples_of
from luthierd.storage.database import Database
from support.evaluator_material import HashingEmbedder, rows

TEXTS = ("Read a CSV file into a frame.", "Solve a linear system.", "read_csv(path): parse comma separated values.")
CORPUS = Corpus(("a", "b", "c"), TEXTS)


def test_the_nearest_text_of_a_text_is_itself() -> None:
    embedder = HashingEmbedder()
    corpus = examples_of(rows(30, split="train"))
    index = DenseIndex.build(corpus, embedder)
    assert index.rank(embedder.embed([corpus.texts[7]]), count=3)[0][0] == 7
    assert index.rank(embedder.embed(["x"]), count=50).shape == (1, 30)


def test_a_search_leaves_its_thread_as_many_threads_as_it_had() -> None:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        DenseIndex.build(CORPUS, HashingEmbedder()).rank(HashingEmbedder().embed(["x"]), count=1)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_words_find_texts_parts_of_identifiers_included_and_a_stranger_finds_nothing() -> None:
    ranking = Bm25Index.build(CORPUS).rank(["how to read csv", "LINEAR", "zebra", ""], count=3)
    assert set(ranking[0][:2].tolist()) == {0, 2}
    assert ranking[1].tolist() == [1, NOTHING, NOTHING]
    assert ranking[2].tolist() == ranking[3].tolist() == [NOTHING] * 3


def test_bm25_weighs_words_as_lucene_does() -> None:
    index = Bm25Index.build(CORPUS)
    # One occurrence of a word that one of three texts has; that text has 4 words, the mean is 6 (Robertson's
    # formula in Lucene's variant, idf ln(1 + (N - n + .5) / (n + .5))).
    expected = np.log(1 + 2.5 / 1.5) / (1 + 1.5 * (1 - 0.75 + 0.75 * 4 / 6))
    assert index.retriever.get_scores(["linear"])[1] == pytest.approx(expected, rel=1e-5)


def test_an_index_survives_storage_and_answers_the_same() -> None:
    embedder = HashingEmbedder()
    dense, bm25 = DenseIndex.build(CORPUS, embedder), Bm25Index.build(CORPUS)
    queries = ["read a file", "system"]
    vectors = embedder.embed(queries)
    again = DenseIndex.deserialise(dense.serialise(), CORPUS)
    assert (again.rank(vectors, count=3) == dense.rank(vectors, count=3)).all()
    assert again.sha256 == dense.sha256
    words = Bm25Index.deserialise(bm25.serialise(), CORPUS)
    assert (words.rank(queries, count=3) == bm25.rank(queries, count=3)).all()
    assert bm25.serialise() == Bm25Index.build(CORPUS).serialise()


def test_a_stored_index_of_other_texts_is_refused() -> None:
    other = dataclasses.replace(CORPUS, texts=(*TEXTS[:2], "changed"))
    for data, kind in (
        (DenseIndex.build(CORPUS, HashingEmbedder()).serialise(), DenseIndex),
        (Bm25Index.build(CORPUS).serialise(), Bm25Index),
    ):
        with pytest.raises(IndexDamagedError):
            kind.deserialise(data, other)


def test_a_digest_changes_with_the_texts_and_the_embedder_only() -> None:
    embedder, other = HashingEmbedder(), HashingEmbedder()
    other.digest = "1" * 64
    assert DenseIndex.build(CORPUS, embedder).sha256 == DenseIndex.build(CORPUS, HashingEmbedder()).sha256
    assert DenseIndex.build(CORPUS, embedder).sha256 != DenseIndex.build(CORPUS, other).sha256
    assert Bm25Index.build(CORPUS).sha256 != Bm25Index.build(Corpus(("a",), ("x",))).sha256


def test_fusion_prefers_what_both_rankings_have() -> None:
    first, second = np.array([[4, 2, 7]]), np.array([[3, 2, NOTHING]])
    assert fuse([first, second], count=5).tolist() == [[2, 3, 4, 7, NOTHING]]  # 2/62 > 1/61 = 1/61 > 1/63


def test_a_document_is_cut_at_its_paragraphs_then_lines_then_sentences_then_words_and_loses_nothing() -> None:
    assert cut("one two\n\nthree. four five", max_characters=12) == ["one two", "three.", "four five"]
    assert cut("First here. Second there.", max_characters=14) == ["First here.", "Second there."]
    assert cut("x" * 25, max_characters=10) == ["x" * 10, "x" * 10, "x" * 5]
    assert cut("  ", max_characters=10) == []
    text = " ".join(f"word{number}" for number in range(500))
    pieces = cut(text, max_characters=100)
    assert " ".join(pieces) == text
    assert all(50 <= len(piece) <= 100 for piece in pieces[:-1])


async def test_an_index_is_found_for_its_tenant_split_and_embedder_only(tables: Database) -> None:
    catalogue = SqlIndexCatalogue(tables)
    await catalogue.add("acme", "train", "embedder", blob_sha256="blob")
    await catalogue.add("acme", "train", "embedder", blob_sha256="later")
    assert await catalogue.find("acme", "train", "embedder") == "later"
    assert await catalogue.find("rival", "train", "embedder") is None
    assert await catalogue.find("acme", "train", "other") is None
