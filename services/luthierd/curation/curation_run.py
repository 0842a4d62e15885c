"""One curation from blob to blobs: the source is read, curated, and written as splits, provenance and datasheet."""

from __future__ import annotations

import hashlib
import pathlib
import tempfile
from collections.abc import Iterable, Mapping

from luthierd.curation.curating import Progress, curate
from luthierd.curation.datasheet import build_datasheet, provenance_line
from luthierd.curation.datasheet_page import render_markdown
from luthierd.curation.domain import (
    RevisionContent,
    Split,
    SplitFile,
    canonical_json,
    row_from_json,
    row_to_json,
)
from luthierd.curation.recipe import Recipe
from luthierd.curation.stages.pii import Scanner
from luthierd.storage.blobs import Blob, BlobStore


def curate_source(
    name: str,
    source_sha256: str,
    recipe: Recipe,
    *,
    blobs: BlobStore,
    scanner: Scanner,
    versions: Mapping[str, str],
    progress: Progress,
) -> RevisionContent:
    """Makes the content of revision `name`. The same source, recipe and versions give the same digests."""
    with blobs.local_path(source_sha256).open("rb") as source:
        rows = [row_from_json(line) for line in source]
    curated = curate(rows, recipe, scanner, progress=progress)
    files = []
    for split in Split:
        kept = curated.rows_by_split[split]
        blob = _put_lines(blobs, (row_to_json(row) for row in kept))
        files.append(SplitFile(split, blob.sha256, blob.size_bytes, len(kept), len({row.group for row in kept})))
    provenance = _put_lines(blobs, (canonical_json(provenance_line(change)) for change in curated.changes))
    sheet = build_datasheet(
        curated,
        name=name,
        source_sha256=source_sha256,
        files=files,
        provenance_sha256=provenance.sha256,
        versions=versions,
    )
    sheet["page_markdown"] = render_markdown(sheet)
    return RevisionContent(
        sha256=hashlib.sha256(canonical_json({file.split: file.sha256 for file in files})).hexdigest(),
        splits=tuple(files),
        steps=tuple(curated.steps),
        datasheet_sha256=blobs.put_bytes(canonical_json(sheet)).sha256,
    )


def _put_lines(blobs: BlobStore, lines: Iterable[bytes]) -> Blob:
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        for line in lines:
            file.write(line + b"\n")
        file.flush()
        return blobs.put_file(pathlib.Path(file.name))
