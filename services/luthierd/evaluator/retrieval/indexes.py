"""Indexes over a corpus: nearest vectors (FAISS IndexFlatIP, exact), words in common (BM25), and fused rankings.

A ranking is an int array of shape (queries, count): positions in the corpus, best first, -1 where there is no further
find.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import pathlib
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import bm25s
import faiss
import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from luthierd.errors import DataLossError
from luthierd.evaluator.retrieval.passages import Corpus
from luthierd.storage.database import Database

Ranking = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

# Lucene's variant with its usual constants (Kamphuis et al. 2020 compare the variants: the choice hardly matters).
K1, B, METHOD = 1.5, 0.75, "lucene"
TOKEN_PATTERN = r"(?u)[^\W_]+"  # noqa: S105 - a regular expression
"""Words are runs of letters and digits: `read_csv` is found by `read csv`."""
# Cormack, Clarke & Buettcher 2009.
FUSION_CONSTANT = 60
NOTHING = -1
SEARCH_THREADS = 1
"""FAISS divides a search among OpenMP threads that wait for each other busily. Measured, one query over 60,000 x 384
on two cores with other work: 5 ms of CPU with one thread, 20 to 29 with two.
"""

_indexes = sa.table(
    "retrieval_indexes",
    *map(sa.column, ("tenant", "train_sha256", "embedder_sha256", "blob_sha256")),
    sa.column("create_time", sa.Float),
)


class IndexDamagedError(DataLossError):
    """A stored index does not match its texts."""

    reason = "RETRIEVAL_INDEX_DAMAGED"

    def __init__(self, count: int, indexed_count: int) -> None:
        super().__init__(
            f"the stored index holds {indexed_count} texts that are not the {count} texts to be searched; delete its "
            "blob and evaluate again",
            metadata={"count": str(count), "indexed_count": str(indexed_count)},
        )


class TextEmbedder(Protocol):
    """Turns texts into unit vectors, one row a text, float32. `digest` names the model and its settings."""

    @property
    def digest(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> Vectors: ...


@dataclass(frozen=True)
class DenseIndex:
    """Unit vectors of a corpus' texts."""

    corpus: Corpus
    vectors: Vectors
    embedder_digest: str

    @classmethod
    def build(cls, corpus: Corpus, embedder: TextEmbedder) -> DenseIndex:
        """Embeds every text. Holds the CPU (about 16 ms a text of 128 tokens on two cores): call it in a thread."""
        return cls(corpus, np.ascontiguousarray(embedder.embed(corpus.texts), dtype=np.float32), embedder.digest)

    def rank(self, queries: Vectors, *, count: int) -> Ranking:
        """For each query vector the `count` nearest texts."""
        wanted = np.ascontiguousarray(queries, dtype=np.float32)
        # The setting is the calling thread's, and torch reads the same one: embedding needs all of them again.
        threads_before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(SEARCH_THREADS)
        try:
            _, found = self._flat.search(wanted, min(count, len(self.corpus.ids)))
        finally:
            faiss.omp_set_num_threads(threads_before)
        return np.asarray(found, dtype=np.int64)

    @cached_property
    def sha256(self) -> str:
        """Over the embedder, the corpus and the vectors."""
        digest = hashlib.sha256(json.dumps([self.embedder_digest, self.corpus.sha256]).encode())
        digest.update(self.vectors.tobytes())
        return digest.hexdigest()

    def serialise(self) -> bytes:
        """One blob: a JSON header line, then the FAISS file."""
        return _header(self.corpus, self.embedder_digest) + bytes(faiss.serialize_index(self._flat))

    @classmethod
    def deserialise(cls, data: bytes, corpus: Corpus) -> DenseIndex:
        """The index that `serialise` wrote. IndexDamagedError if it was of another corpus."""
        header, body = _read_header(data, corpus)
        flat = faiss.deserialize_index(np.frombuffer(body, dtype=np.uint8))
        return cls(corpus, flat.reconstruct_n(0, flat.ntotal), header["method"])

    @cached_property
    def _flat(self) -> Any:
        flat = faiss.IndexFlatIP(self.vectors.shape[1])
        flat.add(self.vectors)
        return flat


@dataclass(frozen=True)
class Bm25Index:
    """Words of a corpus' texts with their weights."""

    corpus: Corpus
    retriever: Any

    @classmethod
    def build(cls, corpus: Corpus) -> Bm25Index:
        """Holds the CPU (some 50 us a text): call it in a thread."""
        retriever = bm25s.BM25(k1=K1, b=B, method=METHOD)
        retriever.index(_words(corpus.texts), show_progress=False)
        return cls(corpus, retriever)

    def rank(self, queries: Sequence[str], *, count: int) -> Ranking:
        """For each query the `count` best texts; a text without a word in common is not a result."""
        count = min(count, len(self.corpus.ids))
        known = [[word for word in words if word in self.retriever.vocab_dict] for words in _words(queries)]
        ranking = np.full((len(queries), count), NOTHING, dtype=np.int64)
        for place, words in enumerate(known):
            if words:
                found, scores = self.retriever.retrieve(
                    [words], k=count, show_progress=False, backend_selection="numpy"
                )
                ranking[place] = np.where(scores[0] > 0, found[0], NOTHING)
        return ranking

    @cached_property
    def sha256(self) -> str:
        """Over the settings and the corpus: what is computed from them is the same again."""
        return hashlib.sha256(json.dumps([bm25_digest(), self.corpus.sha256]).encode()).hexdigest()

    def serialise(self) -> bytes:
        """One blob: a JSON header line, then bm25s' own files in a zip archive without times."""
        packed = io.BytesIO()
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(packed, "w") as archive:
            self.retriever.save(folder, show_progress=False)
            for path in sorted(pathlib.Path(folder).iterdir()):
                archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
        return _header(self.corpus, bm25_digest()) + packed.getvalue()

    @classmethod
    def deserialise(cls, data: bytes, corpus: Corpus) -> Bm25Index:
        """The index that `serialise` wrote. IndexDamagedError if it was of another corpus."""
        _, body = _read_header(data, corpus)
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(io.BytesIO(body)) as archive:
            archive.extractall(folder)
            return cls(corpus, bm25s.BM25.load(folder, load_corpus=False))


class SqlIndexCatalogue:
    """Which blob holds the index of a training split."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, tenant: str, train_sha256: str, embedder_sha256: str) -> str | None:
        """The blob's sha256, or None."""
        query = sa.select(_indexes.c.blob_sha256).where(
            _indexes.c.tenant == tenant,
            _indexes.c.train_sha256 == train_sha256,
            _indexes.c.embedder_sha256 == embedder_sha256,
        )
        async with self._database.read() as tx:
            return (await tx.execute(query)).scalar_one_or_none()

    async def add(self, tenant: str, train_sha256: str, embedder_sha256: str, *, blob_sha256: str) -> None:
        """Remembers the blob, in place of an earlier one."""
        key = {
            "tenant": tenant,
            "train_sha256": train_sha256,
            "embedder_sha256": embedder_sha256,
        }
        earlier = sa.delete(_indexes).where(*(_indexes.c[name] == value for name, value in key.items()))
        insert = sa.insert(_indexes).values(**key, blob_sha256=blob_sha256, create_time=time.time())
        with contextlib.suppress(IntegrityError):  # on PostgreSQL, another evaluation was faster
            await self._database.execute(earlier, insert)


def bm25_digest() -> str:
    """Names the method and its settings, as an embedder's digest does."""
    return hashlib.sha256(
        f"bm25s {importlib.metadata.version('bm25s')} {METHOD} k1={K1} b={B} {TOKEN_PATTERN}".encode()
    ).hexdigest()


def fuse(rankings: Sequence[Ranking], *, count: int) -> Ranking:
    """Reciprocal rank fusion: a text scores 1 / (60 + place) in each ranking that has it; on equal scores the earlier
    text stands first.
    """
    fused = np.full((len(rankings[0]), count), NOTHING, dtype=np.int64)
    for query in range(len(fused)):
        scores: dict[int, float] = defaultdict(float)
        for ranking in rankings:
            for place, position in enumerate(ranking[query].tolist(), start=1):
                if position != NOTHING:
                    scores[position] += 1 / (FUSION_CONSTANT + place)
        best = sorted(scores, key=lambda position: (-scores[position], position))[:count]
        fused[query, : len(best)] = best
    return fused


def _words(texts: Sequence[str]) -> list[list[str]]:
    # No list of stop words: it would be of one language, and the weights make common words count little.
    found: list[list[str]] = bm25s.tokenize(
        list(texts), token_pattern=TOKEN_PATTERN, stopwords=[], return_ids=False, show_progress=False
    )
    return found


def _header(corpus: Corpus, method: str) -> bytes:
    header = {"corpus_sha256": corpus.sha256, "count": len(corpus.ids), "method": method}
    return json.dumps(header, sort_keys=True).encode() + b"\n"


def _read_header(data: bytes, corpus: Corpus) -> tuple[dict[str, Any], bytes]:
    line, _, body = data.partition(b"\n")
    header: dict[str, Any] = json.loads(line)
    if header["corpus_sha256"] != corpus.sha256:
        raise IndexDamagedError(len(corpus.ids), header["count"])
    return header, body
