"""The datasheet as a page for people: Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def render_markdown(sheet: dict[str, Any]) -> str:
    """Tables of the steps, splits, labels and personal data."""
    source = sheet["source"]
    dropped = sum(step["dropped_count"] for step in sheet["steps"])
    stay = sum(split["row_count"] for split in sheet["splits"].values())
    parts = [
        f"# {sheet['revision']}\n",
        f"{source['row_count']} rows came in, {dropped} were dropped, {stay} stay.\n",
        f"Source sha256: `{source['sha256']}`\n",
        "## What was dropped or changed, and why\n",
        _table(("step", "reason", "rows", "for example"), _step_rows(sheet)),
        "## Splits\n",
        _table(
            ("split", "rows", "groups", "labels", "prompt characters p50 (p95)", "answer characters p50 (p95)"),
            (
                [
                    name,
                    split["row_count"],
                    split["group_count"],
                    split["label_count"],
                    _middle(split["prompt_characters"]),
                    _middle(split["completion_characters"]),
                ]
                for name, split in sheet["splits"].items()
            ),
        ),
        f"{sheet['unit_count']} parts were not divided: groups, equal prompts, clusters of near duplicates.",
        "".join(
            f" {count} rows of {split} carry a label that training never shows."
            for split, count in sheet["labels_unseen_in_training"].items()
            if count
        )
        + "\n",
        "## Labels\n",
        _table(("label", *sheet["splits"]), _label_rows(sheet)),
        "## Contradictions\n",
        f"{sheet['contradictions']['prompt_count']} prompts have several answers "
        f"({sheet['contradictions']['row_count']} rows). They are reported, not resolved.\n",
        "## Personal data\n",
        _pii(sheet["pii"]),
    ]
    return "\n".join(parts)


def _step_rows(sheet: dict[str, Any]) -> Iterable[Sequence[object]]:
    for step in sheet["steps"]:
        if not step["reasons"]:
            yield step["step"], "nothing", 0, ""
        for reason, found in step["reasons"].items():
            yield step["step"], reason, found["count"], ", ".join(f"`{row_id}`" for row_id in found["example_ids"][:2])


def _label_rows(sheet: dict[str, Any]) -> Iterable[Sequence[object]]:
    splits = sheet["splits"].values()
    totals: dict[str, int] = {}
    for split in splits:
        for label, count in split["labels"].items():
            totals[label] = totals.get(label, 0) + count
    for label in sorted(totals, key=lambda one: (-totals[one], one)):
        yield label, *(split["labels"].get(label, 0) for split in splits)


def _pii(pii: dict[str, Any]) -> str:
    masked, changed = pii["masked_span_count"], pii["completions_masked_count"]
    table = _table(
        ("type", "found", "in rows", "masked"),
        (
            [entity, found["span_count"], found["row_count"], masked.get(entity, 0)]
            for entity, found in pii["found"].items()
        ),
    )
    return (
        f"{table}\n{pii['masked_character_count']} of {pii['scanned_character_count']} characters were masked; "
        f"{changed} answers were changed, {pii['completions_underivable_count']} of them in a value "
        "that their prompt does not hold.\n"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"


def _middle(quantiles: dict[str, int]) -> str:
    return f"{quantiles['p50']} ({quantiles['p95']})" if quantiles else "-"
