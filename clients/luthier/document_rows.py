"""Documents as rows of a dataset, so that curation cleans, masks and deletes them like any other rows.

A line is `{"text": ..., "id": ..., "source": ...}`; without `id` the file and the line make one, without `source` the
id stands for it.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from luthier.errors import ConfigError

KEYS = {"id", "text", "source"}


def read_documents(paths: Sequence[pathlib.Path]) -> Iterator[dict[str, Any]]:
    """Rows for `datasets.import_rows`: the source is the prompt and the group, the text the completion. `ConfigError`,
    reason DOCUMENT_INVALID, names the file and the line of what is none.
    """
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _row(path, number, line)


def _row(path: pathlib.Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise _invalid(path, number, f"it is not JSON: {error}") from None
    if not isinstance(found, Mapping) or not isinstance(found.get("text"), str) or not found["text"].strip():
        raise _invalid(path, number, 'it is no object with a "text"')
    if unknown := set(found) - KEYS:
        raise _invalid(path, number, f"unknown key {sorted(unknown)[0]!r}; a document has id, text and source")
    document_id = str(found.get("id") or f"{path.stem}-{number}")
    source = str(found.get("source") or document_id)
    return {"id": document_id, "prompt": source, "completion": found["text"], "group": source}


def _invalid(path: pathlib.Path, number: int, problem: str) -> ConfigError:
    return ConfigError(
        f"{path} line {number} is not a document: {problem}",
        reason="DOCUMENT_INVALID",
        metadata={"file": str(path), "line": str(number)},
    )
