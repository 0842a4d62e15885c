"""The datasheet: what a revision contains, what was dropped and why. It names rows by id and has none of their text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from luthierd.curation.domain import Change, Curated, Row, Split, SplitFile
from luthierd.curation.markdown import markdown_table

FORMAT = "luthier.datasheet/2"
EXAMPLE_COUNT = 5
MAX_LABELS = 100
QUANTILES = {"min": 0.0, "p05": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}


def build_datasheet(
    curated: Curated,
    *,
    revision: str,
    source_sha256: str,
    recipe: Mapping[str, Any],
    versions: Mapping[str, str],
    files: Sequence[SplitFile],
    provenance_sha256: str,
) -> dict[str, Any]:
    """The datasheet as plain values; docs/datasheet.md is its schema. No clock: the same rows give the same bytes.

    Each stage's findings are under its name.
    """
    sheet = {
        **curated.findings,
        "format": FORMAT,
        "revision": revision,
        "source": {"sha256": source_sha256, "row_count": curated.source_row_count},
        "recipe": dict(recipe),
        "stages": [
            {
                "stage": stage.stage,
                "dropped_count": stage.dropped_count,
                "changed_count": stage.changed_count,
                "reasons": _reasons(curated.changes[stage.stage]),
            }
            for stage in curated.summaries()
        ],
        "splits": {file.split: _describe_split(file, curated.rows_of(file.split)) for file in files},
        "labels_unseen_in_training": _unseen_labels(curated),
        "provenance_sha256": provenance_sha256,
        "versions": dict(versions),
    }
    return sheet | {"page_markdown": _page(sheet, curated.pages)}


def provenance_line(stage: str, change: Change) -> dict[str, Any]:
    """One line of the provenance blob."""
    return {
        "id": change.row_id,
        "stage": stage,
        "action": "dropped" if change.is_dropped else "changed",
        "reason": change.reason,
        "kept_id": change.kept_id,
    }


def quantiles(values: Sequence[int]) -> dict[str, int]:
    """Nearest-rank quantiles; empty for no values."""
    ordered, last = sorted(values), len(values) - 1
    return {name: ordered[min(last, int(q * len(ordered)))] for name, q in QUANTILES.items()} if ordered else {}


def _reasons(changes: Sequence[Change]) -> dict[str, Any]:
    ids: dict[str, list[str]] = {}
    for change in changes:
        ids.setdefault(change.reason, []).append(change.row_id)
    return {reason: {"count": len(ids[reason]), "example_ids": ids[reason][:EXAMPLE_COUNT]} for reason in sorted(ids)}


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
    """By split: rows whose label no training row has. No model can learn to answer these."""
    known = {row.label for row in curated.rows_of(Split.TRAIN)} | {None}
    others = (split for split in Split if split is not Split.TRAIN)
    return {split: sum(row.label not in known for row in curated.rows_of(split)) for split in others}


def _page(sheet: Mapping[str, Any], stage_pages: Iterable[str]) -> str:
    """The sheet for people: Markdown tables of stages, splits and labels, then the stages' own sections."""
    source, splits = sheet["source"], sheet["splits"]
    dropped = sum(stage["dropped_count"] for stage in sheet["stages"])
    stay = sum(split["row_count"] for split in splits.values())
    unseen = " ".join(
        f"{count} rows of {split} have a label that no training row has."
        for split, count in sheet["labels_unseen_in_training"].items()
        if count
    )
    parts = [
        f"# {sheet['revision']}\n",
        f"{source['row_count']} rows came in, {dropped} were dropped, {stay} stay.\n",
        f"Source sha256: `{source['sha256']}`\n",
        "## What was dropped or changed, and why\n",
        markdown_table(("stage", "reason", "rows", "for example"), _stage_rows(sheet)),
        "## Splits\n",
        markdown_table(
            ("split", "rows", "groups", "labels", "prompt characters p50 (p95)", "answer characters p50 (p95)"),
            (
                (
                    name,
                    *(split[key] for key in ("row_count", "group_count", "label_count")),
                    *(_middle(split[key]) for key in ("prompt_characters", "completion_characters")),
                )
                for name, split in splits.items()
            ),
        ),
        *([unseen + "\n"] if unseen else []),
        "## Labels\n",
        markdown_table(("label", *splits), _label_rows(splits)),
        *stage_pages,
    ]
    return "\n".join(parts)


def _stage_rows(sheet: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    for stage in sheet["stages"]:
        if not stage["reasons"]:
            yield stage["stage"], "nothing", 0, ""
        for reason, found in stage["reasons"].items():
            yield stage["stage"], reason, found["count"], ", ".join(f"`{row}`" for row in found["example_ids"][:2])


def _label_rows(splits: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    totals = sum((Counter(split["labels"]) for split in splits.values()), Counter[str]())
    for label in sorted(totals, key=lambda one: (-totals[one], one)):
        yield label, *(split["labels"].get(label, 0) for split in splits.values())


def _middle(found: Mapping[str, int]) -> str:
    return f"{found['p50']} ({found['p95']})" if found else "-"
