"""JSON Lines as they are stored: one document a line with sorted keys, so that the same rows give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from luthierd.codec import to_json


def write_lines(rows: Iterable[Any]) -> bytes:
    """A line for each row: a dataclass, or what `json.dumps` takes."""
    return "".join(json.dumps(to_json(row), sort_keys=True, ensure_ascii=False) + "\n" for row in rows).encode()


def read_lines(data: bytes) -> list[Any]:
    """The document of every line. `str.splitlines` would also split at U+2028 and the like, which JSON leaves as is."""
    return [json.loads(line) for line in data.splitlines() if line]
