"""Rows that must not be retrieved or learned: an index that holds a row under evaluation would answer with the
reference itself, so it is refused, by id and by text.
"""

from __future__ import annotations

from collections.abc import Iterable

from luthierd.errors import FailedPreconditionError
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
