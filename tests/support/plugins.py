"""Distributions that add something to the servers, made by a test: a module and an entry point, seen by workers too."""

from __future__ import annotations

import os
import pathlib

import pytest


def install_plugin(
    site: pathlib.Path, group: str, name: str, attribute: str, source: str, *, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes `source` as the module `luthier_<name>` below `site`, whose `attribute` is the entry point `name`."""
    module = f"luthier_{name}"
    info = site / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:{attribute}\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")])))
