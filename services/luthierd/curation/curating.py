"""Curation from the first row to the datasheet: the steps in their order, and what they left behind.

Pure but for the scanner: the same rows and recipe give the same result, so that a worker that died is replaced by one
that starts again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from luthierd.curation.domain import Change, Row, Split, Step, StepSummary
from luthierd.curation.recipe import Recipe, RecipeError
from luthierd.curation.stages.clean import clean
from luthierd.curation.stages.contradictions import find_contradictions
from luthierd.curation.stages.exact_duplicates import drop_exact_duplicates
from luthierd.curation.stages.near_duplicates import drop_near_duplicates
from luthierd.curation.stages.pii import PiiCounts, Scanner, treat_pii
from luthierd.curation.stages.split import split_rows
from luthierd.errors import FailedPreconditionError

Progress = Callable[[Step, int, int], None]
"""Hears step, rows done and rows in all; raises to stop the work."""


class NothingLeftError(FailedPreconditionError):
    """Every row was dropped."""

    reason = "CURATION_DROPPED_ALL_ROWS"


@dataclass(frozen=True)
class Curated:
    """What curation made of the rows, and why."""

    recipe: Recipe
    source_row_count: int
    rows_by_split: dict[Split, list[Row]]
    changes: list[Change]
    """Provenance: rows without a line here came through as they were."""
    steps: list[StepSummary]
    contradictions: list[list[str]]
    """Ids of rows that answer one prompt differently, before near duplicates were dropped."""
    pii: PiiCounts
    unit_count: int
    """Parts that the split did not divide."""


def curate(rows: Sequence[Row], recipe: Recipe, scanner: Scanner, *, progress: Progress) -> Curated:
    """Runs all steps. NothingLeftError, SplitWouldBeEmptyError; RecipeError for an entity unknown to the scanner."""
    unknown = sorted(set(recipe.pii.entities) - scanner.entities)
    if unknown:
        known = ", ".join(sorted(scanner.entities))
        raise RecipeError.at(
            "pii.entities", f"{unknown[0]} is not known to the scanner; known are {known}", entity=unknown[0]
        )
    source_row_count, changes = len(rows), []

    def finish(step: Step, left: Sequence[Row], done: list[Change]) -> None:
        progress(step, source_row_count, source_row_count)
        changes.extend(done)
        if not left:
            raise NothingLeftError(
                f"the step {step} dropped the last of {source_row_count} rows; loosen the recipe's rules for it",
                metadata={"step": step, "row_count": str(source_row_count)},
            )

    progress(Step.CLEAN, 0, source_row_count)
    kept, done = clean(rows, recipe.clean)
    finish(Step.CLEAN, kept, done)
    kept, done = drop_exact_duplicates(kept)
    finish(Step.EXACT_DUPLICATES, kept, done)
    total = len(kept)
    pii = treat_pii(kept, recipe.pii, scanner, progress=lambda count: progress(Step.PII, count, total))
    finish(Step.PII, pii.rows, pii.changes)
    contradictions = [[row.id for row in same] for same in find_contradictions(pii.rows)]
    kept, clusters = pii.rows, dict[str, str]()
    threshold, total = recipe.deduplicate.near_duplicate_threshold, len(kept)
    if threshold < 1:
        near = drop_near_duplicates(
            kept, threshold, progress=lambda count: progress(Step.NEAR_DUPLICATES, count, total)
        )
        kept, clusters = near.rows, near.cluster_by_id
        finish(Step.NEAR_DUPLICATES, kept, near.changes)
    split = split_rows(kept, recipe.split, cluster_by_id=clusters)
    finish(Step.SPLIT, kept, split.changes)
    return Curated(
        recipe=recipe,
        source_row_count=source_row_count,
        rows_by_split=split.rows_by_split,
        changes=changes,
        steps=summarise(changes),
        contradictions=contradictions,
        pii=pii.counts,
        unit_count=split.unit_count,
    )


def summarise(changes: Sequence[Change]) -> list[StepSummary]:
    """Counts by step, for every step, in their order."""
    summaries = []
    for step in Step:
        own = [change for change in changes if change.step is step]
        dropped = sum(change.is_dropped for change in own)
        reasons = Counter(change.reason for change in own)
        summaries.append(StepSummary(step, dropped, len(own) - dropped, dict(sorted(reasons.items()))))
    return summaries
