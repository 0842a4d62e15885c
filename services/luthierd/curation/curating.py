"""Curation from blob to blobs: the source goes through the stages and becomes splits, provenance and a datasheet.

The same source, recipe and versions give the same digests, so that a worker that died is replaced by one that starts
again.
"""

from __future__ import annotations

import hashlib
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from luthierd.curation.datasheet import build_datasheet, provenance_line
from luthierd.curation.domain import (
    Curated,
    RevisionContent,
    Row,
    Split,
    SplitFile,
    canonical_json,
    row_from_json,
    row_to_json,
)
from luthierd.curation.stages.stage import Stage
from luthierd.errors import FailedPreconditionError
from luthierd.storage.blob_errors import about
from luthierd.storage.blobs import Blob, BlobStore

Progress = Callable[[str, int, int], None]
"""Takes the stage, rows done and rows in all; raises to stop the work."""


class NothingLeftError(FailedPreconditionError):
    """Every row was dropped."""

    reason = "CURATION_DROPPED_ALL_ROWS"


def curate(rows: Sequence[Row], stages: Sequence[Stage], *, progress: Progress) -> Curated:
    """Applies the stages in their order. NothingLeftError, and the stages' own errors."""
    curated = Curated(len(rows), rows)
    progress(stages[0].name, 0, len(rows))
    for stage in stages:
        name, total = stage.name, len(curated.rows)
        applied = stage.apply(curated.rows, _within(name, total, progress))
        curated.rows = applied.rows
        if applied.findings:
            curated.findings[name] = applied.findings
        curated.pages += [applied.page] if applied.page else []
        if not stage.changes_rows:
            continue
        curated.changes[name] = applied.changes
        progress(name, total, total)
        if not applied.rows:
            raise NothingLeftError(
                f"the stage {name} dropped the last of {len(rows)} rows; loosen its settings in the recipe",
                metadata={"stage": name, "row_count": str(len(rows))},
            )
    return curated


def _within(stage: str, total: int, progress: Progress) -> Callable[[int], None]:
    return lambda done: progress(stage, done, total)


def curate_source(
    source_sha256: str,
    stages: Sequence[Stage],
    *,
    revision: str,
    recipe: Mapping[str, Any],
    blobs: BlobStore,
    versions: Mapping[str, str],
    progress: Progress,
) -> RevisionContent:
    """Makes the content of a revision. `recipe` and `versions` are for the datasheet."""
    with about(f"the source of {revision}"):
        path = blobs.local_path(source_sha256)
    with path.open("rb") as source:
        rows = [row_from_json(line) for line in source]
    curated = curate(rows, stages, progress=progress)
    files = [_put_split(blobs, split, curated.rows_of(split)) for split in Split]
    lines = (provenance_line(stage, change) for stage, changes in curated.changes.items() for change in changes)
    sheet = build_datasheet(
        curated,
        revision=revision,
        source_sha256=source_sha256,
        recipe=recipe,
        versions=versions,
        files=files,
        provenance_sha256=_put_lines(blobs, map(canonical_json, lines)).sha256,
    )
    return RevisionContent(
        sha256=hashlib.sha256(canonical_json({file.split: file.sha256 for file in files})).hexdigest(),
        splits=tuple(files),
        stages=curated.summaries(),
        datasheet_sha256=blobs.put_bytes(canonical_json(sheet)).sha256,
    )


def _put_split(blobs: BlobStore, split: Split, rows: Sequence[Row]) -> SplitFile:
    blob = _put_lines(blobs, map(row_to_json, rows))
    return SplitFile(split, blob.sha256, blob.size_bytes, len(rows), len({row.group for row in rows}))


def _put_lines(blobs: BlobStore, lines: Iterable[bytes]) -> Blob:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        for line in lines:
            file.write(line + b"\n")
        file.flush()
        return blobs.put_file(pathlib.Path(file.name))
