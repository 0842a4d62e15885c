"""The states of the engine and of adapters in it, and the stages in which either is loaded."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

from luthierd.errors import LuthierError

FETCH, VERIFY, LOAD, PROVE, PUBLISH = "fetch", "verify", "load", "prove", "publish"


class LoadedAdapterState(enum.Enum):
    """COLD -> LOADING -> READY | FAILED; READY -> COLD to make room; FAILED -> LOADING; READY -> DRAINING -> gone."""

    COLD = "COLD"
    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    FAILED = "FAILED"


class EngineState(enum.Enum):
    """STOPPED -> STARTING -> READY | FAILED; READY -> STARTING after the engine's process died."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Stage:
    """One stage of a deploy: fetch, verify, load, prove, publish."""

    name: str
    duration_s: float


class StageFailedError(Exception):
    """A stage could not be passed. Inside of the service only: `DeployFailedError` is what callers get."""

    def __init__(self, stage: str, cause: LuthierError) -> None:
        super().__init__(f"{stage}: {cause}")
        self.stage, self.cause = stage, cause


class StageClock:
    """Times one stage after the other."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended: list[Stage] = []
        self._began_s = 0.0
        self.current = ""

    def reach(self, name: str) -> None:
        """Ends the stage before, if there is one, and begins this one."""
        self.end()
        self.current, self._began_s = name, self._clock()

    def end(self) -> tuple[Stage, ...]:
        """Ends the last stage; all of them, in order."""
        if self.current:
            self._ended.append(Stage(self.current, self._clock() - self._began_s))
            self.current = ""
        return tuple(self._ended)
