"""Writes the demo's data: one training row per documented function of an installed Python library.

    python examples/docstrings.py --library scipy --output scipy.jsonl

The task: given a signature and the start of a docstring's body, write the docstring's first line and name the
submodule, as JSON. The rows are real (written by experts, in the library's style), need no network, and are the same on
every run with the same library version. Source files are parsed, never imported. Nothing is cleaned: duplicates,
inherited docstrings and authors' addresses are left for curation to find.

Each line is one row of the import format:
    {"id": "scipy/stats/_kde.py:gaussian_kde.evaluate", "group": "scipy/stats/_kde.py", "label": "stats",
     "messages": [{"role": "system", ...}, {"role": "user", ...}, {"role": "assistant", ...}]}
`group` is the defining file, so a split by group keeps near-identical siblings together. `label` is the public
submodule, which spans many files, so labels of held-out files occur in training.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

INSTRUCTION = (
    "Write the first line of this docstring and name its submodule. "
    'Answer with JSON only: {"summary": "...", "module": "..."}'
)

# Length of a summary: longer first paragraphs are prose, shorter ones carry no information.
SUMMARY_CHARS = range(20, 141)
# A shorter body does not determine a summary.
BODY_MIN_CHARS = 120
# Limits the row to about 160 tokens of the demo's base model.
BODY_MAX_CHARS = 260
SIGNATURE_MAX_CHARS = 120

# Folders with tests, copies of other projects, or internal code.
SKIPPED_FOLDERS = frozenset({"tests", "externals", "_external", "_vendored", "_lib", "array_api_compat", "__pycache__"})

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class LibraryNotFoundError(Exception):
    """The library is not installed in this interpreter."""


@dataclass(frozen=True)
class Row:
    """One example: question, correct answer and origin."""

    id: str
    group: str
    label: str
    question: str
    summary: str

    def to_json(self) -> str:
        answer = json.dumps({"summary": self.summary, "module": self.label}, ensure_ascii=False)
        messages = [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": self.question},
            {"role": "assistant", "content": answer},
        ]
        row = {"id": self.id, "group": self.group, "label": self.label, "messages": messages}
        return json.dumps(row, ensure_ascii=False, sort_keys=True)


def library_folder(library: str) -> Path:
    """Folder of the installed `library`, found without importing it. Raises LibraryNotFoundError."""
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        raise LibraryNotFoundError(f"library '{library}' is not installed as a package; pip install {library}")
    return Path(next(iter(spec.submodule_search_locations)))


def rows_of_library(folder: Path) -> Iterator[Row]:
    """Every documented public function, method, class and module under `folder`, in the order of the file names."""
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if len(relative.parts) < 2 or SKIPPED_FOLDERS.intersection(relative.parts):
            continue  # a top-level file belongs to no submodule
        label = relative.parts[0]
        if not label.startswith("_"):
            yield from rows_of_file(path, group=f"{folder.name}/{relative.as_posix()}", label=label)


def rows_of_file(path: Path, *, group: str, label: str) -> Iterator[Row]:
    """Every documented public name of one source file; nothing if the file is not valid Python."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    sources: list[tuple[str, str, str | None]] = [("__doc__", f"module {path.stem}", ast.get_docstring(tree))]
    sources += [(name, signature(node, name), ast.get_docstring(node)) for name, node in public_names(tree.body)]
    for name, heading, docstring in sources:
        summary, body = summary_and_body(docstring or "")
        if len(summary) in SUMMARY_CHARS and len(body) >= BODY_MIN_CHARS:
            question = f"{heading}\n{shortened(body, BODY_MAX_CHARS)}"
            yield Row(id=f"{group}:{name}", group=group, label=label, question=question, summary=summary)


def public_names(body: Iterable[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Documented]]:
    """Qualified name and node of each public function, method and class, in source order."""
    for node in body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_names(node.body, f"{prefix}{node.name}.")


def signature(node: Documented, name: str) -> str:
    """`def f(a, b=1)` or `class C(Parent)` on one line, shortened."""
    if isinstance(node, ast.ClassDef):
        parents = ", ".join(ast.unparse(parent) for parent in node.bases)
        return shortened(f"class {name}({parents})", SIGNATURE_MAX_CHARS)
    return shortened(f"def {name}({ast.unparse(node.args)})", SIGNATURE_MAX_CHARS)


def summary_and_body(docstring: str) -> tuple[str, str]:
    """The first paragraph on one line, and the rest; both without blank lines and heading underlines."""
    first, _, rest = docstring.strip().partition("\n\n")
    return " ".join(" ".join(text_lines(first)).split()), "\n".join(text_lines(rest))


def text_lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip(" -=~")]


def shortened(text: str, limit_chars: int) -> str:
    """`text`, cut at the last space before `limit_chars` if it is longer."""
    return text if len(text) <= limit_chars else text[:limit_chars].rsplit(None, 1)[0] + " ..."


def sample(rows: Iterable[Row], *, limit: int, per_group: int) -> list[Row]:
    """At most `per_group` rows per file and about `limit` in total, by whole files; deterministic.

    Files are ordered by a hash, so that a small sample still covers all submodules. `limit` 0 keeps all.
    """
    by_group: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_group[row.group].append(row)
    chosen: list[Row] = []
    for group in sorted(by_group, key=stable_order):
        if limit and len(chosen) >= limit:
            break
        kept = sorted(by_group[group], key=lambda row: stable_order(row.id))[:per_group]
        chosen += sorted(kept, key=lambda row: row.id)
    return chosen


def stable_order(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--library", required=True, help="an installed package, such as scipy")
    parser.add_argument("--output", required=True, type=Path, help="the JSONL file to write")
    parser.add_argument("--limit", type=int, default=0, help="approximate number of rows; 0: all (default)")
    parser.add_argument("--per-group", type=int, default=10, help="maximum number of rows per file (default 10)")
    options = parser.parse_args(arguments)
    try:
        rows = rows_of_library(library_folder(options.library))
    except LibraryNotFoundError as error:
        print(f"docstrings.py: {error}", file=sys.stderr)
        return 2
    chosen = sample(rows, limit=options.limit, per_group=options.per_group)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("".join(row.to_json() + "\n" for row in chosen), encoding="utf-8")
    files, modules = {row.group for row in chosen}, {row.label for row in chosen}
    print(f"{options.output}: {len(chosen)} rows, {len(files)} files, {len(modules)} submodules of {options.library}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
