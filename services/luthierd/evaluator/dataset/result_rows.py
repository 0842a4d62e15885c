"""The rows of a finished evaluation, with every arm's answer and scores: written once as JSONL, read by page and by the
report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from luthierd.evaluator.dataset.slices import slices_of
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Answer, Row
from luthierd.evaluator.domain.scores import RowScores


def write_rows(
    rows: Sequence[Row], answers: Mapping[Arm, Mapping[str, Answer]], row_scores: Sequence[RowScores]
) -> list[dict[str, Any]]:
    """One mapping a row: `row_id`, `group`, `slices`, `question`, `reference`, `answers` (one for each arm, in arm
    order).
    """
    scores: dict[tuple[Arm, str], dict[str, float]] = {}
    failures: dict[tuple[Arm, str], dict[str, str]] = {}
    for scored in row_scores:
        for score in scored.scores:
            if score.value is not None:
                scores.setdefault((scored.arm, score.row_id), {})[scored.metric.value] = round(score.value, 6)
            elif score.failure:
                reason = score.failure.partition(":")[0]
                failures.setdefault((scored.arm, score.row_id), {})[scored.metric.value] = reason
    return [
        {
            "row_id": row.id,
            "group": row.group,
            "slices": list(slices_of(row)),
            "question": row.question,
            "reference": row.reference,
            "answers": [
                _answer(arm, given.get(row.id), scores.get((arm, row.id), {}), failures.get((arm, row.id), {}))
                for arm, given in answers.items()
            ],
        }
        for row in rows
    ]


def to_jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """One line a row, keys sorted."""
    return "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows).encode()


def _answer(
    arm: Arm, answer: Answer | None, scores: Mapping[str, float], failures: Mapping[str, str]
) -> dict[str, Any]:
    error = answer.error if answer else None
    # Without an answer every metric fails alike: `error_reason` says it once.
    unscored = {"score_failures": dict(failures)} if failures and answer and error is None else {}
    return unscored | {
        "arm": arm.value,
        "text": answer.text if answer else "",
        "error_reason": error.reason if error else ("" if answer else "NOT_ASKED"),
        "scores": dict(scores),
        "shown_row_ids": list(answer.shown_row_ids) if answer else [],
        "completion_tokens": answer.completion_tokens if answer else 0,
        "finish_reason": answer.finish_reason if answer else "",
    }
