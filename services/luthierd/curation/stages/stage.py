"""What a stage of curation is. A stage is one file: its settings, its class, and `@STAGES.register`.

    @dataclass(frozen=True, kw_only=True)
    class ShortenSettings:
        max_characters: int = setting(1000, at_least=1)

    @STAGES.register
    class Shorten(Stage):
        name, Settings = "shorten", ShortenSettings
        settings: ShortenSettings

        def apply(self, rows: Sequence[Row], progress: Progress) -> Applied: ...

Another distribution adds one by an entry point of the group `luthier.curation_stages`. The server imports the files to
check recipes: libraries that only a worker needs are imported in `__init__` or `apply`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from luthierd.curation.domain import Change, Row
from luthierd.plugins import Plugins
from luthierd.settings import Fault, InvalidSettingsError

Progress = Callable[[int], None]
"""Takes the number of rows done; raises to stop the work. Call it every second or so."""


class RecipeError(InvalidSettingsError):
    """A recipe with an unknown stage or setting, or a value out of range. `metadata["key"]`: `<stage>.<setting>`."""

    reason = "RECIPE_INVALID"

    def __init__(self, path: str, found: Sequence[Fault]) -> None:
        super().__init__(path, found)
        self.metadata["key"] = self.violations[0].field.removeprefix("recipe.")


@dataclass(frozen=True)
class NoSettings:
    """Settings of a stage that has none."""


@dataclass(frozen=True)
class Applied:
    """What a stage made of its rows."""

    rows: Sequence[Row]
    """The rows that stay, in their order."""
    changes: Sequence[Change] = ()
    """One for each row dropped or changed; other rows came through as they were."""
    findings: Mapping[str, Any] = field(default_factory=dict)
    """What the datasheet says under the stage's name: counts and ids of rows, none of their text."""
    page: str = ""
    """The same for people: a section of Markdown."""


class Stage(Protocol):
    """Made for one curation, with its checked settings. The same rows must give the same result."""

    name: ClassVar[str]
    Settings: ClassVar[type[Any]] = NoSettings
    packages: ClassVar[Mapping[str, str]] = {}
    """Distributions that the result depends on, for the datasheet: label -> distribution."""
    changes_rows: ClassVar[bool] = True
    """False: it only reports, and has no line among the stages of a datasheet."""
    assigns_splits: ClassVar[bool] = False
    """Whether each row that it returns has a split. A recipe has one such stage."""

    settings: Any

    def __init__(self, settings: Any) -> None:
        """Loads what `apply` needs."""
        self.settings = settings

    def apply(self, rows: Sequence[Row], progress: Progress) -> Applied:
        """Drops, changes or inspects rows."""


STAGES = Plugins[Stage]("luthierd.curation.stages", group="luthier.curation_stages")
