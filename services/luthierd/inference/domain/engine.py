"""The states of the engine and of loaded adapters, and the stages of loading either."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

from luthierd.errors import LuthierError

FETCH, VERIFY, LOAD, PARITY_CHECK, PUBLISH = "fetch", "verify", "load", "parity_check", "publish"
"""The stages of a deploy."""


class LoadedAdapterState(enum.Enum):
    """COLD -> LOADING -> READY | FAILED; READY -> COLD to make room; FAILED -> LOADING; READY -> DRAINING -> gone."""

    COLD = "COLD"
    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    FAILED = "FAILED"


class EngineState(enum.Enum):
    """STOPPED -> STARTING -> READY | FAILED; READY -> STARTING after the engine's process died; READY -> DRAINING ->
    STARTING to change the base model.
    """

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    READY = "READY"
    DRAINING = "DRAINING"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Stage:
    """A stage that was passed."""

    name: str
    duration_s: float


class StageFailedError(Exception):
    """A stage failed. Internal: callers get a `DeployFailedError`."""

    def __init__(self, stage: str, cause: LuthierError) -> None:
        super().__init__(f"{stage}: {cause}")
        self.stage, self.cause = stage, cause


class StageClock:
    """Times consecutive stages."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: list[Stage] = []
        self._began_s = 0.0
        self.current = ""

    def reach(self, name: str) -> None:
        """Ends the current stage, if any, and begins this one."""
        self.end()
        self.current, self._began_s = name, self._clock()

    def end(self) -> tuple[Stage, ...]:
        """Ends the current stage; all stages in order."""
        if self.current:
            self._ended.append(Stage(self.current, self._clock() - self._began_s))
            self.current = ""
        return tuple(self._ended)
