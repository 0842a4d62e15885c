"""Where base models may be imported from."""

from __future__ import annotations

import pathlib

import pytest
from luthierd.errors import InvalidArgumentError
from luthierd.trainer.base_models import hub_source, resolve_source
from luthierd.trainer.domain.base_model import (
    ImportPathForbiddenError,
    ImportPathNotFoundError,
    PackageNotFoundError,
)


def test_a_source_is_one_of_path_and_package(tmp_path: pathlib.Path) -> None:
    for both in ({"path": "", "package": ""}, {"path": "a", "package": "b"}):
        with pytest.raises(InvalidArgumentError, match="either a path or a package"):
            resolve_source(**both, import_roots=[tmp_path])


def test_a_folder_outside_of_the_import_roots_is_refused_even_through_a_link(tmp_path: pathlib.Path) -> None:
    inside, outside = tmp_path / "models", tmp_path / "elsewhere"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    for path in (outside, inside / "link", inside / ".." / "elsewhere"):
        with pytest.raises(ImportPathForbiddenError, match="LUTHIER_TRAINER_IMPORT_ROOTS"):
            resolve_source(path=str(path), package="", import_roots=[inside])
    with pytest.raises(ImportPathNotFoundError):
        resolve_source(path=str(inside / "none"), package="", import_roots=[inside])
    (inside / "m").mkdir()
    assert resolve_source(path=str(inside / "m"), package="", import_roots=[inside]).label == "path:m"


def test_a_package_source_names_its_version() -> None:
    source = resolve_source(path="", package="click", import_roots=[])
    assert source.label.startswith("package:click==")
    with pytest.raises(PackageNotFoundError):
        resolve_source(path="", package="no-such-package", import_roots=[])


def test_a_hub_source_names_a_repository_and_a_revision_and_never_an_address() -> None:
    assert hub_source("org/model-1.5_b", "").label == "hub:org/model-1.5_b@main"
    assert hub_source("gpt2", "refs/pr/3").revision == "refs/pr/3"
    for repository in ("http://evil/x", "a/b/c", "../x", "a/..", "a//b", "a@b", "a/b?x", "-a/b", "a" * 200, "a/\0"):
        with pytest.raises(InvalidArgumentError, match=r"hub\.repository"):
            hub_source(repository, "")
    for revision in ("../../x", "a b", "?", "-x", "a" * 300, "a/../b"):
        with pytest.raises(InvalidArgumentError, match=r"hub\.revision"):
            hub_source("a/b", revision)
