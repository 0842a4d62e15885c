"""Writes docs/errors.md, the public registry of error reasons, from the error classes of the servers.

python scripts/errors_page.py generate     # rewrites docs/errors.md
python scripts/errors_page.py check        # fails if the page is not current

The classes are parsed, not imported, so neither an engine nor a model library is needed.
"""

from __future__ import annotations

import ast
import pathlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from luthier.services import SERVICES
from luthierd.errors import BY_CODE, LuthierError

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ROOT / "services/luthierd"
PAGE = ROOT / "docs/errors.md"

ROOT_CLASS = "LuthierError"
SHARED = "*.luthier.dev"
"""The domain of errors that every service has."""

HEAD = """\
# Errors

Every error of a service is a `google.rpc.Status` whose `ErrorInfo` has a **reason** and a **domain**. Programs should
use this pair, never the message. `metadata` repeats every variable part of the message. The same reasons appear in the
`error` field of a failed job and in the error line of a server that does not start.

Where applicable there is also one of each: `BadRequest` (INVALID_ARGUMENT: which fields), `RetryInfo` (UNAVAILABLE,
RESOURCE_EXHAUSTED: when to retry) and `PreconditionFailure` (FAILED_PRECONDITION: which condition is not met). The
request id of the call is in the trailer `x-request-id` and in the server's log.

Domain `*.luthier.dev` stands for every service: `curation`, `trainer`, `evaluator`, `inference`. `luthier up` stands
for errors that only the command line shows.

This page is generated from the error classes by `python scripts/errors_page.py generate`; a test fails if it is out of
date.

| reason | domain | status | meaning |
|---|---|---|---|
"""


@dataclass(frozen=True)
class ErrorClass:
    """A class of the error tree, as parsed."""

    name: str
    bases: tuple[str, ...]
    reason: str | None
    """None for a class that only groups others."""
    meaning: str
    domain: str


@dataclass(frozen=True, order=True)
class Row:
    """A line of the table."""

    reason: str
    domain: str
    status: str
    meaning: str


def error_classes() -> list[ErrorClass]:
    """Every subclass of LuthierError below services/, and LuthierError itself."""
    found = [made for path in sorted(SOURCES.rglob("*.py")) for made in _classes_of(path)]
    names = {ROOT_CLASS}
    while True:
        more = {made.name for made in found if made.name in names or names.intersection(made.bases)}
        if more <= names:
            return [made for made in found if made.name in names]
        names |= more


def rows() -> list[Row]:
    """The table, by reason and domain. ValueError if one pair has two statuses."""
    classes = error_classes()
    parents = {(made.domain, made.name): made.bases for made in classes}
    kinds = _status_by_class()
    table: dict[tuple[str, str], Row] = {}
    for made in classes:
        if made.reason is None or made.name == ROOT_CLASS:
            continue
        row = Row(made.reason, made.domain, _status(made, parents, kinds), made.meaning)
        known = table.setdefault((row.reason, row.domain), row)
        if known.status != row.status:
            raise ValueError(f"{row.reason} in {row.domain} means {known.status} and {row.status}")
    return sorted(table.values())


def render() -> str:
    """The whole page."""
    return HEAD + "".join(f"| `{r.reason}` | `{r.domain}` | {r.status} | {r.meaning} |\n" for r in rows())


def _classes_of(path: pathlib.Path) -> Iterator[ErrorClass]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            bases = tuple(_last_name(base) for base in node.bases)
            # The first paragraph, on one line, as a cell of the table can hold it.
            meaning = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split()).replace("|", "\\|")
            yield ErrorClass(node.name, bases, _reason(node), meaning, _domain(path))


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _reason(node: ast.ClassDef) -> str | None:
    for statement in node.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        if any(_last_name(target) == "reason" for target in targets):
            value = getattr(statement, "value", None)
            return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
    return None


def _domain(path: pathlib.Path) -> str:
    part = path.relative_to(SOURCES).parts[0]
    if part == "supervisor.py":
        return "luthier up"
    return f"{part}.luthier.dev" if part in SERVICES else SHARED


def _status_by_class() -> dict[str, str]:
    """GRPC status by class name."""
    return {"LuthierError": LuthierError.code} | {kind.__name__: code for code, kind in BY_CODE.items()}


def _status(made: ErrorClass, parents: Mapping[tuple[str, str], tuple[str, ...]], kinds: Mapping[str, str]) -> str:
    """The status of the nearest class that has one. Two services may have classes of one name."""
    line = [made.name]
    while line:
        if line[0] in kinds:
            return kinds[line[0]]
        shared = parents.get((SHARED, line[0]), ())
        line = [*line[1:], *parents.get((made.domain, line[0]), shared)]
    raise ValueError(f"{made.name} has no status: derive it from a class of rpc/status.py")


def main() -> int:
    """The command; 0 done or current, 1 not current, 64 wrong usage."""
    verb = sys.argv[1:]
    if verb == ["generate"]:
        PAGE.write_text(render())
        return 0
    if verb == ["check"]:
        if PAGE.is_file() and PAGE.read_text() == render():
            return 0
        print("docs/errors.md is not current; run `python scripts/errors_page.py generate`", file=sys.stderr)
        return 1
    print(__doc__, file=sys.stderr)
    return 64


if __name__ == "__main__":
    raise SystemExit(main())
