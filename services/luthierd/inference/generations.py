"""Immutable adapter generations in the engine: loaded once, leased by requests, unloaded after the last token.

Everything that decides (what is loaded, who holds it, who leases it) changes between two awaits of one event loop, so
a resolve and its lease are one step that nothing can interrupt. Loads and unloads wait for each other under one lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from luthierd.errors import LuthierError
from luthierd.inference.domain import AdapterRevision, GenerationState
from luthierd.inference.engine_host import Engine, EngineAdapter
from luthierd.inference.errors import AdapterSlotsFullError, EngineUnavailableError

log = logging.getLogger(__name__)


class AdapterFiles(Protocol):
    """Where adapters' files come from, verified."""

    async def adapter_folder(self, revision: AdapterRevision, *, max_rank: int) -> pathlib.Path:
        """A local folder with the revision's files. Errors name what is wrong with them."""


class Probe(Protocol):
    """Proves that a loaded adapter does what it should."""

    async def __call__(self, engine: Engine, adapter: EngineAdapter) -> None:
        """AdapterHasNoEffectError, AdapterDeviatesError."""


@dataclass
class Generation:
    """One adapter revision in the engine. `held_by` names the deployments that keep it loaded."""

    revision: AdapterRevision
    state: GenerationState = GenerationState.LOADING
    adapter: EngineAdapter | None = None
    error: LuthierError | None = None
    held_by: set[str] = field(default_factory=set)
    lease_count: int = 0

    @property
    def is_idle(self) -> bool:
        """Nobody would miss it."""
        return self.lease_count == 0 and not self.held_by and self.state is GenerationState.READY


Report = Callable[[str], None]
"""Hears the stage of a load: fetch and verify, load, probe."""


class Generations:
    """All generations of the engine: at most `max_loaded`, of which `max_unheld` may be kept without a deployment."""

    def __init__(self, *, files: AdapterFiles, probe: Probe, max_loaded: int, max_unheld: int) -> None:
        self._files, self._probe = files, probe
        self._max_loaded, self._max_unheld = max_loaded, max_unheld
        self._by_sha256: dict[str, Generation] = {}  # in order of use, least recent first
        self._numbers = itertools.count(1)
        self._lock = asyncio.Lock()
        self._engine: Engine | None = None
        self._unloads: set[asyncio.Task[None]] = set()

    def get(self, revision: AdapterRevision) -> Generation | None:
        """The generation of a revision, in whatever state."""
        return self._by_sha256.get(revision.sha256)

    @property
    def loaded_count(self) -> int:
        """Adapters in the engine."""
        return sum(generation.adapter is not None for generation in self._by_sha256.values())

    async def start(self, engine: Engine, held: dict[str, list[AdapterRevision]]) -> None:
        """Loads, into a fresh engine, what the deployments hold. What cannot be loaded is FAILED; the rest serves."""
        self._engine = engine
        for name, revisions in held.items():
            for revision in revisions:
                try:
                    await self.ensure(revision)
                except LuthierError as error:
                    log.error(
                        "an adapter could not be loaded again", extra={"deployment": name, "reason": error.reason}
                    )
                    self._by_sha256.setdefault(
                        revision.sha256, Generation(revision, GenerationState.FAILED, error=error)
                    )
                self.hold(revision, name)

    def forget_all(self) -> None:
        """The engine died, and everything that was loaded with it."""
        self._engine = None
        self._by_sha256.clear()

    async def ensure(self, revision: AdapterRevision, report: Report = lambda stage: None) -> None:
        """Loads and proves a revision unless it is READY. On an error nothing stays behind."""
        async with self._lock:
            generation = self.get(revision)
            if generation is not None and generation.state in (GenerationState.READY, GenerationState.DRAINING):
                generation.state = GenerationState.READY  # one that drains has all its weights: it may stay
                return
            await self._make_room()
            failed, held_by = generation, generation.held_by if generation else set()
            generation = self._by_sha256[revision.sha256] = Generation(revision, held_by=held_by)
            try:
                await self._load(generation, report)
            except BaseException:
                if self._by_sha256.get(revision.sha256) is generation:
                    del self._by_sha256[revision.sha256]
                    if failed is not None:
                        self._by_sha256[revision.sha256] = failed
                raise

    async def _load(self, generation: Generation, report: Report) -> None:
        engine = self._ready_engine()
        report("verify")
        folder = await self._files.adapter_folder(generation.revision, max_rank=engine.max_rank)
        number = next(self._numbers)
        adapter = EngineAdapter(f"{generation.revision.generation}.{number}", number, folder)
        report("load")
        await engine.load_adapter(adapter)
        try:
            report("probe")
            await self._probe(engine, adapter)
        except BaseException:
            with contextlib.suppress(LuthierError):
                await engine.unload_adapter(adapter)
            raise
        if self._engine is not engine:
            raise EngineUnavailableError("the engine was lost during the load; repeat the call")
        generation.adapter, generation.state = adapter, GenerationState.READY

    async def _make_room(self) -> None:
        """Unloads what nobody holds or leases, least recently used first. AdapterSlotsFullError."""
        idle = [generation for generation in self._by_sha256.values() if generation.is_idle]
        unheld = sum(not generation.held_by for generation in self._by_sha256.values())
        while len(self._by_sha256) >= self._max_loaded or unheld >= self._max_unheld:
            if not idle:
                if len(self._by_sha256) >= self._max_loaded:
                    raise AdapterSlotsFullError(self._max_loaded)
                return  # the bound on unheld ones is soft while requests lease them
            unheld -= 1
            await self._unload(idle.pop(0))

    def hold(self, revision: AdapterRevision, deployment: str) -> None:
        """Keeps the revision loaded for a deployment."""
        generation = self.get(revision)
        if generation is not None:
            generation.held_by.add(deployment)

    def release(self, revision: AdapterRevision, deployment: str) -> None:
        """The deployment no longer needs it: without other holders it drains, and is unloaded after its last lease."""
        generation = self.get(revision)
        if generation is None:
            return
        generation.held_by.discard(deployment)
        if not generation.held_by:
            if generation.state is GenerationState.FAILED:
                del self._by_sha256[revision.sha256]
            elif generation.state is GenerationState.READY:
                generation.state = GenerationState.DRAINING
                self._unload_if_drained(generation)

    @contextlib.contextmanager
    def lease(self, revision: AdapterRevision) -> Iterator[EngineAdapter]:
        """The revision's weights, which stay as they are and where they are until the block ends.

        EngineUnavailableError if it is not loaded. The leasing itself awaits nothing.
        """
        generation = self.get(revision)
        if generation is not None and generation.error is not None:
            raise EngineUnavailableError(
                f"{revision.name} cannot be served: {generation.error}", metadata={"cause": generation.error.reason}
            )
        if generation is None or generation.adapter is None:
            raise EngineUnavailableError(
                f"{revision.name} is not loaded yet; try again", metadata={"name": revision.name}
            )
        generation.lease_count += 1
        self._by_sha256[revision.sha256] = self._by_sha256.pop(revision.sha256)  # most recently used
        try:
            yield generation.adapter
        finally:
            generation.lease_count -= 1
            self._unload_if_drained(generation)

    @contextlib.asynccontextmanager
    async def lease_on_demand(self, revision: AdapterRevision) -> AsyncIterator[EngineAdapter]:
        """Like `lease`, and loads the revision first if need be."""
        generation = self.get(revision)
        if generation is None or generation.state is not GenerationState.READY:
            await self.ensure(revision)
        with self.lease(revision) as adapter:
            yield adapter

    def _unload_if_drained(self, generation: Generation) -> None:
        if generation.state is GenerationState.DRAINING and generation.lease_count == 0 and self._engine is not None:
            task = asyncio.create_task(self._unload_drained(generation))
            self._unloads.add(task)
            task.add_done_callback(self._unloads.discard)

    async def _unload_drained(self, generation: Generation) -> None:
        async with self._lock:
            if generation.state is GenerationState.DRAINING and generation.lease_count == 0:
                with contextlib.suppress(EngineUnavailableError):
                    await self._unload(generation)

    async def _unload(self, generation: Generation) -> None:
        """Takes it out of the table first, so that nobody leases it any more."""
        if self._by_sha256.get(generation.revision.sha256) is generation:
            del self._by_sha256[generation.revision.sha256]
            if generation.adapter is not None:
                await self._ready_engine().unload_adapter(generation.adapter)

    def _ready_engine(self) -> Engine:
        if self._engine is None:
            raise EngineUnavailableError("the engine is starting; try again in some seconds", retry_after_s=10.0)
        return self._engine

    async def settled(self, wait: Callable[[set[asyncio.Task[None]]], Awaitable[object]] = asyncio.wait) -> None:
        """Returns when every unload under way has ended."""
        while self._unloads:
            await wait(set(self._unloads))
