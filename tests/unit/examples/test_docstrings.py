from __future__ import annotations

import importlib.util
import json
import pathlib
import sys
from types import ModuleType

import pytest

SOURCE = pathlib.Path(__file__).parents[3] / "examples/docstrings.py"

LONG = "What follows is a body of more than a hundred and twenty characters, so that it says enough about the function "

MODULE = f'''"""Tools for shapes in the plane, of every kind there is.

Written by Ada <ada@example.org>. {LONG * 2}
"""
raise RuntimeError("the source is read, never run")

class Circle(Shape):
    """A circle around the origin of the plane.

    Parameters
    ----------
    radius : float
        {LONG}
    """

    def area(self, *, exact=True):
        """Compute the area that the circle covers.

        {LONG} {LONG} {LONG}
        """

    def _hidden(self):
        """Compute something that nobody asks for.

        {LONG}
        """

def short(x):
    """Too short.

    {LONG}
    """

def bare(x):
    """Return the square of the number given.
    """
'''


@pytest.fixture(scope="module")
def docstrings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docstrings_example", SOURCE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def library(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "lib"
    for path in ("geometry/shapes.py", "geometry/tests/test_shapes.py", "_private/secret.py", "top.py"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(MODULE)
    (folder / "geometry/broken.py").write_text("def (")
    return folder


def test_rows_are_the_documented_public_names_of_submodules(docstrings: ModuleType, library: pathlib.Path) -> None:
    rows = list(docstrings.rows_of_library(library))
    assert [row.id for row in rows] == [
        f"lib/geometry/shapes.py:{name}" for name in ("__doc__", "Circle", "Circle.area")
    ]
    assert {(row.group, row.label) for row in rows} == {("lib/geometry/shapes.py", "geometry")}
    module, circle, area = rows
    assert "Written by Ada <ada@example.org>." in module.question
    assert circle.question.startswith("class Circle(Shape)\nParameters\nradius : float\n")
    assert area.question.startswith("def Circle.area(self, *, exact=True)\nWhat follows")
    assert area.question.endswith(" ...")
    assert area.summary == "Compute the area that the circle covers."


def test_a_row_has_the_form_of_an_import(docstrings: ModuleType, library: pathlib.Path) -> None:
    row = json.loads(next(docstrings.rows_of_library(library)).to_json())
    assert set(row) == {"id", "group", "label", "messages"}
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    answer = json.loads(row["messages"][-1]["content"])
    assert answer == {"summary": "Tools for shapes in the plane, of every kind there is.", "module": "geometry"}


def test_a_sample_takes_whole_files_and_is_the_same_every_time(docstrings: ModuleType) -> None:
    rows = [
        docstrings.Row(id=f"f{file}:{name}", group=f"f{file}", label="a", question="q", summary="s")
        for file in range(20)
        for name in range(8)
    ]
    sample = docstrings.sample(rows, limit=30, per_group=5)
    assert len(sample) == 30
    assert {len([row for row in sample if row.group == group]) for group in {row.group for row in sample}} == {5}
    assert docstrings.sample(list(reversed(rows)), limit=30, per_group=5) == sample
    assert len(docstrings.sample(rows, limit=0, per_group=100)) == 160


def test_the_command_writes_the_same_file_twice(
    docstrings: ModuleType, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for output in outputs:
        assert docstrings.main(["--library", "numpy", "--limit", "60", "--output", str(output)]) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    lines = outputs[0].read_text().splitlines()
    assert 60 <= len(lines) <= 70
    assert f"{len(lines)} rows" in capsys.readouterr().out


def test_an_absent_library_is_named(
    docstrings: ModuleType, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert docstrings.main(["--library", "no_such_lib", "--output", str(tmp_path / "x")]) == 2
    assert "pip install no_such_lib" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
