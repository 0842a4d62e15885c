"""Finding implementations by name."""

from __future__ import annotations

import pathlib
from typing import ClassVar

import pytest
from luthierd.curation.stages.clean import Clean
from luthierd.plugins import Plugins
from support.plugins import install_plugin

GROUP = "luthier.test_plugins"


class Thing:
    name: ClassVar[str] = ""


@pytest.fixture
def things() -> Plugins[Thing]:
    return Plugins("luthierd.curation.sources", group=GROUP)  # a package that registers nothing


def test_a_registered_class_is_found(things: Plugins[Thing]) -> None:
    @things.register
    class Spoon(Thing):
        name = "spoon"

    assert things.find("spoon") is Spoon
    assert things.names() == ["spoon"]
    assert things.find("fork") is None


def test_modules_of_the_package_register_themselves() -> None:
    from luthierd.curation.stages.stage import STAGES

    assert STAGES.find("clean") is Clean
    assert {"clean", "split", "pii"} <= set(STAGES.names())


def test_an_entry_point_is_loaded_when_it_is_looked_up(
    things: Plugins[Thing], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = 'class Fork:\n    name = "fork"\n'
    install_plugin(tmp_path / "site", GROUP, "fork", "Fork", source, monkeypatch=monkeypatch)
    assert things.names() == ["fork"]
    found = things.find("fork")
    assert found is not None
    assert found.__module__ == "luthier_fork"
