"""The public registry of errors: every class has a status and a reason, and docs/errors.md lists them all."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from luthierd.errors import FieldViolation, InvalidArgumentError, LuthierError, RetryableError, UnavailableError
from luthierd.rpc.status import code_of

ROOT = pathlib.Path(__file__).parents[2]


def load(path: pathlib.Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


errors_page = load(ROOT / "scripts/errors_page.py")


def loaded_classes(kind: type[LuthierError] = LuthierError) -> Iterator[type[LuthierError]]:
    """Subclasses of our own in the modules imported above."""
    for child in kind.__subclasses__():
        if child.__module__.startswith("luthierd."):
            yield child
        yield from loaded_classes(child)


def test_the_page_of_errors_is_current() -> None:
    """Run `python scripts/errors_page.py generate` and look at the difference."""
    assert errors_page.PAGE.read_text() == errors_page.render()


def test_every_reason_is_upper_snake_and_short() -> None:
    reasons = [row.reason for row in errors_page.rows()]
    assert len(reasons) > 50
    assert [reason for reason in reasons if not re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*", reason)] == []
    assert [reason for reason in reasons if len(reason) > 63] == []


def test_every_error_says_what_it_means() -> None:
    assert [row.reason for row in errors_page.rows() if not row.meaning] == []


def test_the_page_knows_every_class_that_python_knows() -> None:
    known = {made.name for made in errors_page.error_classes()}
    assert {kind.__name__ for kind in loaded_classes()} <= known


def test_the_page_has_the_status_that_the_server_sends() -> None:
    pages = {(row.reason, row.domain): row.status for row in errors_page.rows()}
    for kind in loaded_classes():
        if "reason" in kind.__dict__:
            domain = (
                "luthier up"
                if kind.__module__ == "luthierd.supervisor"
                else errors_page._domain(errors_page.SOURCES / kind.__module__.partition(".")[2].replace(".", "/"))
            )
            assert pages[kind.reason, domain] == code_of(kind.__new__(kind)).name, kind


def test_every_kind_of_error_has_a_status() -> None:
    kinds = {kind for kind in LuthierError.__subclasses__() if kind.__module__ == "luthierd.errors"}
    assert all("code" in vars(kind) for kind in kinds - {RetryableError})
    assert all("code" in vars(kind) for kind in RetryableError.__subclasses__())


def test_an_error_about_a_field_names_it() -> None:
    error = InvalidArgumentError.of_field("rank", "512 exceeds 64")
    assert str(error) == "rank: 512 exceeds 64"
    assert error.violations == (FieldViolation("rank", "512 exceeds 64"),)
    assert error.metadata == {"field": "rank"}


@pytest.mark.parametrize("retry_after_s", [0.5, 30.0])
def test_an_error_that_passes_says_when(retry_after_s: float) -> None:
    assert UnavailableError("later", retry_after_s=retry_after_s).retry_after_s == retry_after_s
