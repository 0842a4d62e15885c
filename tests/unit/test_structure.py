"""The shape of the code: packages without circles, functions and files that can be read at once, no re-exports."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

import grimp
import pytest
from luthier.services import SERVICES

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted(
    path
    for folder in ("services", "clients")
    for path in (ROOT / folder).rglob("*.py")
    if not path.stem.endswith(("_pb2", "_pb2_grpc"))
)
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
TRAINING_LOOP, MAX_TRAINING_LOOP_LINES = "services/luthierd/trainer/loop.py", 120
"""A training loop is read from top to bottom."""
MAX_POSITIONAL_ARGUMENTS = 5
CALLS_WITHOUT_NAMES = {("lora.py", "_LoraProduct.apply"), ("kernel.py", "self._add")}
"""torch.autograd and C functions take no names."""
MAX_FORMAT_SKIPS = 10


def named(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def nodes(path: pathlib.Path, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))


def test_no_file_is_longer_than_a_reader_holds() -> None:
    counts = {named(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: count for name, count in counts.items() if count > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    found = {}
    for path in FILES:
        if path.parent.name == "versions":  # a migration is a list of statements
            continue
        limit = MAX_TRAINING_LOOP_LINES if named(path) == TRAINING_LOOP else MAX_FUNCTION_LINES
        for node in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef):
            count = node.end_lineno - node.lineno + 1
            if count > limit:
                found[f"{named(path)}:{node.lineno} {node.name}"] = count
    assert found == {}


def test_many_arguments_are_given_by_name() -> None:
    found = [
        f"{named(path)}:{node.lineno}"
        for path in FILES
        for node in nodes(path, ast.Call)
        if len(node.args) > MAX_POSITIONAL_ARGUMENTS and not takes_a_list_of_parts(node)
        if (path.name, ast.unparse(node.func)) not in CALLS_WITHOUT_NAMES
    ]
    assert found == []


def takes_a_list_of_parts(call: ast.Call) -> bool:
    """Such as `sa.table("jobs", sa.column("name"), ...)`: SQLAlchemy's builders, and calls whose parts are calls."""
    is_sql = ast.unparse(call.func).startswith(("sa.", "op."))
    return is_sql or all(isinstance(argument, ast.Call | ast.Starred) for argument in call.args[1:])


def test_dataclasses_with_many_fields_are_made_by_name() -> None:
    found = []
    for path in FILES:
        for node in nodes(path, ast.ClassDef):
            decorators = [ast.unparse(one) for one in node.decorator_list if "dataclass" in ast.unparse(one)]
            fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and "ClassVar" not in ast.unparse(one)]
            if decorators and len(fields) > MAX_POSITIONAL_ARGUMENTS and "kw_only=True" not in decorators[0]:
                found.append(f"{named(path)}:{node.lineno} {node.name}")
    assert found == []


def test_nothing_is_re_exported() -> None:
    """`from x import A as A` makes a second place to import A from; the SDK's front door is the one exception."""
    found = [
        f"{named(path)}:{node.lineno} {alias.name}"
        for path in FILES
        if named(path) != "clients/luthier/__init__.py"
        for node in nodes(path, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    ]
    assert found == []


def test_a_package_file_contains_no_code() -> None:
    found = [
        named(path)
        for path in FILES
        if path.name == "__init__.py" and named(path) != "clients/luthier/__init__.py"
        if any(not isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body)
    ]
    assert found == []


def test_the_formatter_decides() -> None:
    skips = [named(path) for path in FILES for _ in re.finditer("# fmt: skip", path.read_text())]
    assert len(skips) <= MAX_FORMAT_SKIPS


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("luthierd")


@pytest.mark.parametrize("service", SERVICES)
def test_the_packages_of_a_service_have_no_circles(graph: grimp.ImportGraph, service: str) -> None:
    """Checked at every depth: siblings anywhere below the service do not depend on each other in a circle."""
    root = f"luthierd.{service}"
    packages = [root, *sorted(name for name in graph.find_descendants(root) if graph.find_children(name))]
    assert {package: circles for package in packages if (circles := circles_among_children(graph, package))} == {}


def circles_among_children(graph: grimp.ImportGraph, package: str) -> list[list[str]]:
    """Groups of children of `package` that reach each other."""
    children = sorted(graph.find_children(package))
    below = {name: child for child in children for name in (child, *graph.find_descendants(child))}
    edges: dict[str, set[str]] = {child: set() for child in children}
    for name, child in below.items():
        for imported in graph.find_modules_directly_imported_by(name):
            other = below.get(imported)
            if other is not None and other != child:
                edges[child].add(other)
    reachable = {child: reach(edges, child) for child in children}
    together = {
        frozenset(other for other in reachable[child] if child in reachable[other]) | {child} for child in children
    }
    return sorted(sorted(group) for group in together if len(group) > 1)


def reach(edges: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    todo = [start]
    while todo:
        for other in edges[todo.pop()] - found:
            found.add(other)
            todo.append(other)
    return found
