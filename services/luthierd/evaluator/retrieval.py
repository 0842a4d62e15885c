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

from luthierd.errors import FailedPreconditionError
from luthierd.evaluator.domain import Row


class LeakageError(FailedPreconditionError):
    """A row to be evaluated is among the rows to be retrieved."""

    reason = "HOLDOUT_LEAKAGE"

    def __init__(self, row_id: str, train_id: str) -> None:
        super().__init__(
            f"holdout row {row_id!r} is in the training split as {train_id!r}: retrieval would return the reference "
            "itself; curate the dataset again so that duplicates stay on one side of the split",
            metadata={"row": row_id, "train_row": train_id},
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


def build_index(train: Sequence[Row], holdout: Iterable[Row], embedder: TextEmbedder) -> RetrievalIndex:
    """Indexes the training rows' questions. LeakageError before anything is embedded if a holdout row is among them.

    Holds the CPU (about 16 ms a row on two cores): call it in a thread.
    """
    refuse_leakage(train, holdout)
    vectors = embedder.embed([row.question for row in train])
    digest = hashlib.sha256(json.dumps([embedder.digest, [row.id for row in train]]).encode())
    digest.update(np.ascontiguousarray(vectors, dtype=np.float32).tobytes())
    return RetrievalIndex(tuple(train), vectors, embedder.digest, digest.hexdigest())


def refuse_leakage(train: Iterable[Row], holdout: Iterable[Row]) -> None:
    """LeakageError if a holdout row is in the training split, under its id or with the same question and answer but for
    case and spaces.
    """
    by_key = {key: row.id for row in train for key in _keys(row)}
    for row in holdout:
        for key in _keys(row):
            if key in by_key:
                raise LeakageError(row.id, by_key[key])


def _keys(row: Row) -> tuple[str, str]:
    text = " ".join(f"{row.question} {row.reference}".lower().split())
    return f"id:{row.id}", f"text:{text}"
