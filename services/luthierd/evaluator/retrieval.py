"""The retrieval index of the RAG arms: training rows only, by exact inner product of unit vectors (FAISS IndexFlatIP).

An index that holds a holdout row would answer with the reference itself, so building one is refused, by id and by text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import faiss
import numpy as np
import numpy.typing as npt

from luthierd.errors import DataLossError, FailedPreconditionError
from luthierd.evaluator.domain import Row


class LeakageError(FailedPreconditionError):
    """A row to be evaluated is among the rows to be retrieved."""

    reason = "HOLDOUT_LEAKAGE"

    def __init__(self, row_id: str, train_id: str) -> None:
        super().__init__(
            f"holdout row {row_id!r} is in the training split as {train_id!r}: its answer would be learned or "
            "retrieved; curate the dataset again so that duplicates stay on one side of the split",
            metadata={"row": row_id, "train_row": train_id},
        )


class IndexDamagedError(DataLossError):
    """A stored index does not belong to the training split that it is kept for."""

    reason = "RETRIEVAL_INDEX_DAMAGED"

    def __init__(self, row_count: int, indexed_count: int) -> None:
        super().__init__(
            f"the stored index holds {indexed_count} rows that are not the {row_count} rows of the training split; "
            "delete its blob and evaluate again",
            metadata={"row_count": str(row_count), "indexed_count": str(indexed_count)},
        )


class TextEmbedder(Protocol):
    """Turns texts into unit vectors, one row a text, float32. `digest` names the model and its settings."""

    @property
    def digest(self) -> str: ...

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True)
class RetrievalIndex:
    """Training rows by nearness of their question. `sha256` is over the embedder, the row ids and the vectors."""

    rows: tuple[Row, ...]
    vectors: npt.NDArray[np.float32]
    embedder_digest: str
    sha256: str

    def nearest(self, queries: npt.NDArray[np.float32], *, count: int) -> list[list[Row]]:
        """For each query vector the `count` nearest rows, nearest first."""
        flat = faiss.IndexFlatIP(self.vectors.shape[1])
        flat.add(self.vectors)
        _, found = flat.search(np.ascontiguousarray(queries, dtype=np.float32), min(count, len(self.rows)))
        return [[self.rows[position] for position in positions] for positions in found]

    def serialise(self) -> bytes:
        """The index as one blob: a JSON header line (row ids, embedder), then the FAISS file."""
        flat = faiss.IndexFlatIP(self.vectors.shape[1])
        flat.add(self.vectors)
        header = {"embedder_sha256": self.embedder_digest, "row_ids": [row.id for row in self.rows]}
        return json.dumps(header, sort_keys=True).encode() + b"\n" + bytes(faiss.serialize_index(flat))

    @classmethod
    def deserialise(cls, data: bytes, train: Sequence[Row]) -> RetrievalIndex:
        """The index that `serialise` wrote, over the same training rows. IndexDamagedError if they are not the same."""
        line, _, body = data.partition(b"\n")
        header = json.loads(line)
        if header["row_ids"] != [row.id for row in train]:
            raise IndexDamagedError(len(train), len(header["row_ids"]))
        flat = faiss.deserialize_index(np.frombuffer(body, dtype=np.uint8))
        vectors = flat.reconstruct_n(0, flat.ntotal)
        return cls(tuple(train), vectors, header["embedder_sha256"], _digest(header["embedder_sha256"], train, vectors))


def build_index(train: Sequence[Row], holdout: Iterable[Row], embedder: TextEmbedder) -> RetrievalIndex:
    """Indexes the training rows' questions. LeakageError before anything is embedded if a holdout row is among them.

    Holds the CPU (about 16 ms a row on two cores): call it in a thread.
    """
    refuse_leakage(train, holdout)
    vectors = embedder.embed([row.question for row in train])
    return RetrievalIndex(tuple(train), vectors, embedder.digest, _digest(embedder.digest, train, vectors))


def refuse_leakage(train: Iterable[Row], holdout: Iterable[Row]) -> None:
    """LeakageError if a holdout row is in the training split, under its id or with the same question and answer but for
    case and spaces.
    """
    by_key = {key: row.id for row in train for key in _keys(row)}
    for row in holdout:
        for key in _keys(row):
            if key in by_key:
                raise LeakageError(row.id, by_key[key])


def _digest(embedder_digest: str, train: Sequence[Row], vectors: npt.NDArray[np.float32]) -> str:
    digest = hashlib.sha256(json.dumps([embedder_digest, [row.id for row in train]]).encode())
    digest.update(np.ascontiguousarray(vectors, dtype=np.float32).tobytes())
    return digest.hexdigest()


def _keys(row: Row) -> tuple[str, str]:
    text = " ".join(f"{row.question} {row.reference}".lower().split())
    return f"id:{row.id}", f"text:{text}"
