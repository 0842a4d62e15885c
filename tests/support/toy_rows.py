"""Rows of a task that a tiny model learns in a few steps, of different lengths."""

from __future__ import annotations

import json
from typing import Any


def toy_rows(count: int, *, split: str = "train") -> list[dict[str, Any]]:
    """Rows of a task that a tiny model learns quickly, of different lengths."""
    return [
        {
            "id": f"{split}-{index}",
            "group": f"g{index % 7}",
            "label": "even" if index % 2 == 0 else "odd",
            "messages": [
                {"role": "user", "content": f"{split} {'x' * (index % 5)} {index}?"},
                {"role": "assistant", "content": "even" if index % 2 == 0 else "odd"},
            ],
        }
        for index in range(count)
    ]


def rows_jsonl(rows: list[dict[str, Any]]) -> bytes:
    """Rows as a dataset revision stores them."""
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
