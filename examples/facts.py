"""Writes a factual task ("which function of this library does X?") and the passages that contain the answers.

    python examples/facts.py --library scipy --output facts.jsonl --passages passages.jsonl

The opposite of `docstrings.py`: answers to held-out questions are in no training row, so a tuned model cannot know
them, but a retriever can find them. Rows are split by source file as in `docstrings.py`; the passages cover all files.
Summaries shared by two functions have no unique answer and are left out.

The rows are for `luthier dataset import`, the passages for `luthier dataset import --documents`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from docstrings import LibraryNotFoundError, Row, library_folder, rows_of_library, sample

INSTRUCTION = "Name the function that is described. Answer with its name only."


def name_of(row: Row) -> str:
    """`submodule.function`, or `submodule.Class.method`."""
    return f"{row.label}.{row.id.rsplit(':', 1)[1]}"


def facts(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows whose summary belongs to exactly one function; modules are left out."""
    counts = Counter(row.summary.lower() for row in rows)
    names = Counter(name_of(row) for row in rows)
    for row in rows:
        if counts[row.summary.lower()] == 1 and names[name_of(row)] == 1 and not row.id.endswith(":__doc__"):
            yield row


def row_to_json(row: Row, library: str) -> str:
    messages = [
        {"role": "system", "content": INSTRUCTION},
        {"role": "user", "content": f"Which function of {library} does this: {row.summary}"},
        {"role": "assistant", "content": name_of(row)},
    ]
    return json.dumps({"id": row.id, "group": row.group, "label": None, "messages": messages}, ensure_ascii=False)


def passage_to_json(row: Row) -> str:
    text = f"{name_of(row)}: {row.summary}"
    return json.dumps({"id": f"passage:{row.id}", "text": text, "source": row.group}, ensure_ascii=False)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--library", required=True, help="an installed package, such as scipy")
    parser.add_argument("--output", required=True, type=Path, help="the JSONL file of rows to write")
    parser.add_argument("--passages", required=True, type=Path, help="the JSONL file of passages to write")
    parser.add_argument("--limit", type=int, default=0, help="approximate number of rows; 0: all (default)")
    parser.add_argument("--per-group", type=int, default=10, help="maximum number of rows per file (default 10)")
    options = parser.parse_args(arguments)
    try:
        known = list(facts(list(rows_of_library(library_folder(options.library)))))
    except LibraryNotFoundError as error:
        print(f"facts.py: {error}", file=sys.stderr)
        return 2
    chosen = sample(known, limit=options.limit, per_group=options.per_group)
    for path, lines in (
        (options.output, [row_to_json(row, options.library) for row in chosen]),
        (options.passages, [passage_to_json(row) for row in known]),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    print(f"{options.output}: {len(chosen)} rows; {options.passages}: {len(known)} passages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
