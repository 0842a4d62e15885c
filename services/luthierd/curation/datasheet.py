"""The datasheet: what a revision holds, what was dropped and why. It names rows by id and holds none of their text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from luthierd.curation.curating import Curated
from luthierd.curation.domain import Change, Row, SplitFile

FORMAT = "luthier.datasheet/1"
EXAMPLE_COUNT = 5
MAX_LABELS = 100
QUANTILES = {"min": 0.0, "p05": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}


def build_datasheet(
    curated: Curated,
    *,
    name: str,
    source_sha256: str,
    files: Sequence[SplitFile],
    provenance_sha256: str,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """The datasheet as plain values; docs/datasheet.md is its schema. No clock: the same rows give the same bytes."""
    return {
        "format": FORMAT,
        "revision": name,
        "source": {"sha256": source_sha256, "row_count": curated.source_row_count},
        "recipe": curated.recipe.to_mapping(),
        "steps": [
            {
                "step": step.step,
                "dropped_count": step.dropped_count,
                "changed_count": step.changed_count,
                "reasons": _reasons([change for change in curated.changes if change.step is step.step]),
            }
            for step in curated.steps
        ],
        "splits": {file.split: _describe_split(file, curated.rows_by_split[file.split]) for file in files},
        "unit_count": curated.unit_count,
        "labels_unseen_in_training": _unseen_labels(curated),
        "contradictions": {
            "prompt_count": len(curated.contradictions),
            "row_count": sum(map(len, curated.contradictions)),
            "examples": curated.contradictions[:EXAMPLE_COUNT],
        },
        "pii": _describe_pii(curated),
        "provenance_sha256": provenance_sha256,
        "versions": dict(versions),
    }


def provenance_line(change: Change) -> dict[str, Any]:
    """One line of the provenance blob."""
    return {
        "id": change.row_id,
        "step": change.step,
        "action": "dropped" if change.is_dropped else "changed",
        "reason": change.reason,
        "kept_id": change.other_row_id,
    }


def quantiles(values: Sequence[int]) -> dict[str, int]:
    """Nearest-rank quantiles; empty for no values."""
    ordered = sorted(values)
    return (
        {name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] for name, q in QUANTILES.items()}
        if ordered
        else {}
    )


def _reasons(changes: Sequence[Change]) -> dict[str, Any]:
    counts = Counter(change.reason for change in changes)
    examples: dict[str, list[str]] = {reason: [] for reason in counts}
    for change in changes:
        if len(examples[change.reason]) < EXAMPLE_COUNT:
            examples[change.reason].append(change.row_id)
    return {reason: {"count": counts[reason], "example_ids": examples[reason]} for reason in sorted(counts)}


def _describe_split(file: SplitFile, rows: Sequence[Row]) -> dict[str, Any]:
    labels = Counter(row.label for row in rows if row.label is not None)
    return {
        "sha256": file.sha256,
        "size_bytes": file.size_bytes,
        "row_count": file.row_count,
        "group_count": file.group_count,
        "label_count": len(labels),
        "labels": dict(sorted(labels.most_common(MAX_LABELS), key=lambda pair: (-pair[1], pair[0]))),
        "prompt_characters": quantiles([sum(len(message.content) for message in row.prompt) for row in rows]),
        "completion_characters": quantiles([len(row.completion) for row in rows]),
    }


def _unseen_labels(curated: Curated) -> dict[str, int]:
    """Rows outside training whose label training never shows, by split: nobody can learn to answer these."""
    splits = dict(curated.rows_by_split)
    known = {row.label for split, rows in splits.items() if split == "train" for row in rows}
    return {
        split: sum(row.label is not None and row.label not in known for row in rows)
        for split, rows in splits.items()
        if split != "train"
    }


def _describe_pii(curated: Curated) -> dict[str, Any]:
    counts = curated.pii
    return {
        "found": {
            entity: {"span_count": count, "row_count": counts.rows_by_entity[entity]}
            for entity, count in sorted(counts.spans_by_entity.items())
        },
        "masked_span_count": dict(sorted(counts.masked_spans_by_entity.items())),
        "masked_character_count": counts.masked_character_count,
        "scanned_character_count": counts.character_count,
        "completions_masked_count": counts.completions_masked_count,
        "completions_underivable_count": counts.completions_underivable_count,
    }
