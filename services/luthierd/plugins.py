"""Implementations by name: those in a package of ours, and those that other distributions declare as entry points."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from typing import Any, ClassVar, Generic, Protocol, TypeVar


class Named(Protocol):
    """What has a name for users."""

    name: ClassVar[str]


T = TypeVar("T", bound=Named)


class Plugins(Generic[T]):
    """Classes with an attribute `name`.

    Every module of `package` is imported at the first look-up and registers its class: `@STAGES.register`. Another
    distribution declares an entry point of the group `group`, named like the class; it is loaded when it is looked up.
    """

    def __init__(self, package: str, *, group: str) -> None:
        self._package, self._group = package, group
        self._known: dict[str, type[T]] = {}
        self._is_complete = False

    def register(self, kind: type[T]) -> type[T]:
        """Makes a class known under its `name`; a class decorator."""
        self._known[kind.name] = kind
        return kind

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self._built_in(), *self._entry_points().names})

    def find(self, name: str) -> type[T] | None:
        """The class of that name. Ours first: nobody replaces them."""
        if name not in self._built_in():
            for entry_point in self._entry_points().select(name=name):
                self.register(entry_point.load())
        return self._known.get(name)

    def _built_in(self) -> dict[str, type[T]]:
        if not self._is_complete:
            for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            self._is_complete = True
        return self._known

    def _entry_points(self) -> Any:
        return importlib.metadata.entry_points(group=self._group)
