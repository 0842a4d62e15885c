"""Finds what documentation, docstrings and comments cite, and resolves it in the sources, importing none of them."""

from __future__ import annotations

import ast
import functools
import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = {"luthierd": ROOT / "services/luthierd", "luthier": ROOT / "clients/luthier"}
FOLDERS = ("services", "clients", "protos", "tests", "benchmarks", "examples", "scripts", "loadtests", "docs", "deploy")
PAGES = ("*.md", "docs/**/*.md", "benchmarks/*.md", "deploy/*.md", "services/**/*.md")
TOOLS = ("benchmarks/*.py", "examples/**/*.py", "loadtests/*.py", "scripts/*.py")
CITING = ("services/**/*.py", "clients/**/*.py", *TOOLS)
SOURCES = (".py", ".md", ".proto", ".cpp")

PATH = re.compile(rf"(?<![\w/.:-])(?:{'|'.join(FOLDERS)})/[\w{{}},/.-]*[\w}}]")
BACKTICKED = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
SETTING = re.compile(r"\bLUTHIER_[A-Z0-9_]*[A-Z0-9]\b(?!_?[*<{])")
DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
NAME = re.compile(r"[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]*)+|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|[a-z][a-z0-9]*(?:_[a-z0-9]+)+")
COMMENT = re.compile(r"(?:^|\s)(?:#|//) (.*)$")


class Cited(NamedTuple):
    """A line of text that may cite something."""

    file: pathlib.Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"


@dataclass
class Module:
    """A Python module. `names` has what is reached through the module (key "") and through each of its classes."""

    names: dict[str, set[str]] = field(default_factory=lambda: {"": set()})
    bases: dict[str, list[str]] = field(default_factory=dict)
    docstring_lines: set[int] = field(default_factory=set)


@functools.cache
def files(*patterns: str) -> tuple[pathlib.Path, ...]:
    """The repository's files of these patterns, without generated ones."""
    found = sorted({path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()})
    return tuple(path for path in found if "_pb2" not in path.name and not {"__pycache__", ".venv"} & set(path.parts))


@functools.cache
def lines(path: pathlib.Path) -> list[str]:
    """A file's lines."""
    return path.read_text().split("\n")


class _Reader:
    """Reads what a module defines; visits its statements, not their expressions."""

    def __init__(self) -> None:
        self.found = Module()

    def read(self, body: Iterable[ast.AST], owner: str = "", instance: str = "") -> None:
        """`owner`: what the statements are in; `instance`: the class that `self` is of."""
        for statement in body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                self.found.docstring_lines.update(range(statement.lineno, (statement.end_lineno or 0) + 1))
            elif isinstance(statement, ast.ClassDef):
                self._add(owner, statement.name)
                self.found.names.setdefault(statement.name, set())
                self.found.bases[statement.name] = [ast.unparse(base).rpartition(".")[2] for base in statement.bases]
                self.read(statement.body, statement.name, statement.name)
            elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                self._add(owner, statement.name)
                self.read(statement.body, f"{owner}.{statement.name}()", instance)
            elif isinstance(statement, ast.Import | ast.ImportFrom):
                for alias in statement.names:
                    self._add(owner, (alias.asname or alias.name).partition(".")[0])
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
                    self._bind(target, owner, instance)
            else:
                for block in ("body", "orelse", "finalbody", "handlers"):
                    self.read(getattr(statement, block, ()), owner, instance)

    def _bind(self, target: ast.expr, owner: str, instance: str) -> None:
        if isinstance(target, ast.Tuple):
            for element in target.elts:
                self._bind(element, owner, instance)
        elif isinstance(target, ast.Name):
            self._add(owner, target.id)
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            self._add(instance, target.attr)

    def _add(self, owner: str, name: str) -> None:
        self.found.names.setdefault(owner, set()).add(name)


@functools.cache
def module(path: pathlib.Path) -> Module:
    """What a Python file defines."""
    reader = _Reader()
    reader.read(ast.parse(path.read_text()).body)
    return reader.found


@functools.cache
def modules() -> dict[str, Module]:
    """Every module of our packages, tests and scripts, by dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in files(f"{folder.relative_to(ROOT)}/**/*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = module(path)
    for path in files(*TOOLS):
        found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = module(path)
    return found


@functools.cache
def classes() -> dict[str, set[str]]:
    """What is reached through a class or a message of ours, by its name; "*" where a base is not ours."""
    own: dict[str, set[str]] = {}
    bases: dict[str, set[str]] = {}
    for one in modules().values():
        for name, parents in one.bases.items():
            own.setdefault(name, set()).update(one.names[name])
            bases.setdefault(name, set()).update(parents)
    for path in files("protos/**/*.proto"):
        for kind, name, body in re.findall(r"^(message|enum|service) (\w+) \{(.*?)^\}", path.read_text(), re.M | re.S):
            pattern = r"rpc (\w+)\(" if kind == "service" else r"(\w+) = \d+"
            own.setdefault(name, set()).update(re.findall(pattern, body))

    def reached(name: str, seen: frozenset[str]) -> set[str]:
        if name in seen:
            return set()
        if name not in own:
            return set() if name in ("object", "Protocol", "Generic") else {"*"}
        inherited = (reached(base, seen | {name}) for base in bases.get(name, ()))
        return own[name].union(*inherited)

    return {name: reached(name, frozenset()) for name in own}


@functools.cache
def words() -> frozenset[str]:
    """Every word of code and configuration, comments and docstrings left out (those of tests are not: they are few)."""
    found: set[str] = set()
    for path in files(
        *CITING, "tests/**/*.py", "protos/**/*.proto", "**/*.cpp", "*.toml", "deploy/**/*.yaml", "Makefile"
    ):
        silent = module(path).docstring_lines if path.suffix == ".py" and "tests" not in path.parts else set()
        for number, line in enumerate(lines(path), 1):
            if number not in silent:
                found.update(re.findall(r"\w+", COMMENT.sub("", line)))
    return frozenset(found)


@functools.cache
def settings() -> frozenset[str]:
    """Every environment variable: those that the code names, and one per field of a service's configuration."""
    found = {word for word in words() if word.startswith("LUTHIER_")}
    shared = modules()["luthierd.config"].names["ServerConfig"]
    found.update(f"LUTHIER_{name.upper()}" for name in shared)
    for path in files("services/luthierd/*/config.py"):
        own = set().union(*(names for owner, names in module(path).names.items() if owner.endswith("Config")))
        found.update(f"LUTHIER_{path.parent.name}_{name}".upper() for name in own | shared)
    return frozenset(found)


@functools.cache
def cited() -> tuple[Cited, ...]:
    """Every line of a page, a docstring or a comment."""
    return tuple(itertools.chain(_pages(), _docstrings_and_comments()))


def _pages() -> Iterator[Cited]:
    for page in files(*PAGES):
        yield from (Cited(page, number, line) for number, line in enumerate(lines(page), 1))


def _docstrings_and_comments() -> Iterator[Cited]:
    for path in files(*CITING, "protos/**/*.proto"):
        docstring_lines = module(path).docstring_lines if path.suffix == ".py" else set()
        for number, line in enumerate(lines(path), 1):
            if number in docstring_lines:
                yield Cited(path, number, line)
            elif comment := COMMENT.search(line):
                yield Cited(path, number, comment[1])


def expanded(path: str) -> list[str]:
    """`a/{b,c}.py` as its paths."""
    parts = [part.split(",") for part in re.split(r"[{}]", path)]
    return ["".join(choice) for choice in itertools.product(*parts)] if "{" in path else [path]


def path_exists(path: str, file: pathlib.Path) -> bool:
    """Whether `path`, as cited in `file`, is a file or a folder. A record may be cited by its number alone."""
    for one in expanded(path.rstrip("/")):
        places = [ROOT, ROOT / "services", ROOT / "clients", *PACKAGES.values(), ROOT / "protos/luthier", *file.parents]
        if not any((place / one).exists() or list(place.glob(f"{one}-*.md")) for place in places if place >= ROOT):
            return False
    return True


def _slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def broken_link(target: str, page: pathlib.Path) -> bool:
    """Whether a Markdown link leads nowhere; links to other hosts are not followed."""
    if re.match(r"\w+:", target):
        return False
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    if not found.exists():
        return True
    return bool(anchor) and anchor not in {_slug(heading) for heading in HEADING.findall(found.read_text())}


@functools.cache
def entry_point_groups() -> frozenset[str]:
    """The groups in which other distributions declare their parts."""
    texts = (path.read_text() for path in files("services/**/*.py"))
    return frozenset(group for text in texts for group in re.findall(r'group="([\w.]+)"', text))


def name_exists(dotted: str, file: pathlib.Path) -> bool:
    """Whether `luthierd.x.y`, `module.name` or `Class.attribute`, as cited in `file`, is there."""
    first, *rest = dotted.split(".")
    if re.match(r"luthier\.\w+\.v1\.", dotted):  # a contract
        return rest[2] in classes() or rest[2] in words()
    if first in PACKAGES:
        return _in_package(dotted) or dotted in entry_point_groups()
    if first in classes():
        return bool({rest[0], "*"} & classes()[first])
    stems = [one for name, one in modules().items() if name.rpartition(".")[2] == first]
    if any(rest[0] in one.names[""] for one in stems):
        return True
    # Not a module's name, or a variable or field that is called like a module.
    return all(part in words() for part in (first, *rest)) and not (stems and rest[0][0].isupper())


def _in_package(dotted: str) -> bool:
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        if one := modules().get(".".join(parts[:end])):
            rest = parts[end:]
            if not rest:
                return True
            if rest[0] not in one.names[""]:
                return False
            return len(rest) == 1 or bool({rest[1], "*"} & classes().get(rest[0], {"*"}))
        if (PACKAGES[parts[0]] / "/".join(parts[1:end])).is_dir() and end == len(parts):
            return True
    return False
