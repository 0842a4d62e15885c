"""Immutable loaded adapters: registered by deployments, in the engine while they are used, leased by requests.

Three tiers: vLLM moves adapters between its batch slots and host memory by itself; this module moves them between host
memory and disk. A cold one is loaded by its first request, once for all that wait; the one whose stay is worth least
makes room (`residency`). A leased or pinned loaded adapter stays.

Everything that decides (what is loaded, who holds it, who leases it) changes between two awaits of one event loop, so
a resolve and its lease are one step that nothing can interrupt. Loads and unloads of the engine wait for each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import pathlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

from luthierd.errors import LuthierError, ResourceExhaustedError, UnavailableError
from luthierd.inference import metrics
from luthierd.inference.adapters.loaded_adapter import AdapterFiles, LoadedAdapter, ProofStore, Prove
from luthierd.inference.adapters.residency import GreedyDual, rank
from luthierd.inference.domain.deployment import AdapterRevision
from luthierd.inference.domain.engine import (
    FETCH,
    LOAD,
    PROVE,
    VERIFY,
    LoadedAdapterState,
    Stage,
    StageClock,
    StageFailedError,
)
from luthierd.inference.domain.errors import AdapterSlotsFullError, EngineUnavailableError
from luthierd.inference.domain.parity import Proof
from luthierd.inference.engine.engine import Engine, EngineAdapter

log = logging.getLogger(__name__)

FAILED_RETRY_S = 10.0
"""A loaded adapter that could not be loaded is tried again by a request after this time: its files may be back."""


class LoadedAdapters:
    """All loaded adapters: at most `max_cpu_loras` in the engine, at most `max_unheld` of them without a deployment."""

    def __init__(
        self,
        *,
        files: AdapterFiles,
        prove: Prove,
        proofs: ProofStore,
        max_cpu_loras: int,
        max_unheld: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files, self._prove, self._proofs = files, prove, proofs
        self._clock = clock
        self._max_cpu_loras, self._max_unheld = max_cpu_loras, max_unheld
        self._by_sha256: dict[str, LoadedAdapter] = {}
        self._numbers = itertools.count(1)
        self._turn = asyncio.Lock()  # of those that need a place, first come, first served
        self._lock = asyncio.Lock()  # of the engine's loads and unloads: never held while waiting for a request
        self._engine: Engine | None = None
        self._policy = GreedyDual()
        self._changed = asyncio.Event()  # something may leave that could not before
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def max_pinned(self) -> int:
        """One place is left for all that is not pinned."""
        return self._max_cpu_loras - 1

    def get(self, revision: AdapterRevision) -> LoadedAdapter | None:
        """The loaded adapter of a revision, in whatever state."""
        return self._by_sha256.get(revision.sha256)

    @property
    def loaded_count(self) -> int:
        """Adapters in the engine."""
        return len(self._resident())

    def _resident(self) -> list[LoadedAdapter]:
        return [loaded_adapter for loaded_adapter in self._by_sha256.values() if loaded_adapter.adapter is not None]

    def start(self, engine: Engine) -> None:
        """A fresh engine is there, and answers at once; what is held is loaded behind the requests."""
        self._engine = engine
        self._spawn(self._warm(engine))

    async def _warm(self, engine: Engine) -> None:
        """Loads what is held, pinned and recently used first, as far as there are places; looks after the rest."""
        wanted = [loaded_adapter for loaded_adapter in self._by_sha256.values() if loaded_adapter.held_by]
        wanted.sort(key=lambda one: (not one.pinned_by, -one.worth.used))
        for loaded_adapter in wanted:
            if self._engine is not engine:
                return
            with contextlib.suppress(StageFailedError):  # the loaded adapter says so
                if self.loaded_count < self._max_cpu_loras:
                    await self._ensure(loaded_adapter)
                else:
                    await self._look_after(loaded_adapter)

    async def _look_after(self, loaded_adapter: LoadedAdapter) -> None:
        """A cold loaded adapter whose files are gone is reported before anybody asks for it."""
        try:
            await self._files.check_present(loaded_adapter.revision)
        except LuthierError as error:
            if loaded_adapter.state is LoadedAdapterState.COLD and loaded_adapter.loading is None:
                self._fail(loaded_adapter, error)

    def forget_all(self) -> None:
        """The engine died, and everything that was loaded with it."""
        self._engine = None
        for loaded_adapter in list(self._by_sha256.values()):
            loaded_adapter.adapter, loaded_adapter.is_leaving = None, False
            if loaded_adapter.state is not LoadedAdapterState.FAILED:
                loaded_adapter.state = LoadedAdapterState.COLD
            self._forget_unheld(loaded_adapter)
        self._changed.set()

    async def ensure(self, revision: AdapterRevision) -> LoadedAdapter:
        """Loads and, the first time, proves a revision unless it is READY; one load for all that wait.

        StageFailedError. What no deployment holds then leaves nothing behind.
        """
        loaded_adapter = self._by_sha256.setdefault(revision.sha256, LoadedAdapter(revision))
        await self._ensure(loaded_adapter)
        return loaded_adapter

    async def _ensure(self, loaded_adapter: LoadedAdapter) -> None:
        """The waiting protect what they wait for: it cannot leave between its load and their leases."""
        if loaded_adapter.state is LoadedAdapterState.DRAINING:
            loaded_adapter.state = LoadedAdapterState.READY  # it has all its weights: it may stay
        if loaded_adapter.can_be_leased:
            return
        loaded_adapter.waiting_count += 1
        try:
            if loaded_adapter.loading is None:
                loaded_adapter.loading = self._spawn(self._load(loaded_adapter))
            await asyncio.shield(loaded_adapter.loading)
        finally:
            loaded_adapter.waiting_count -= 1
            self._changed.set()

    async def _load(self, loaded_adapter: LoadedAdapter) -> None:
        """One load. It goes on when nobody waits for it any more: the engine cannot be stopped half-way."""
        clock = StageClock(self._clock)
        try:
            await self._bring(loaded_adapter, clock)
        except LuthierError as error:
            await self._discard(loaded_adapter)
            if not isinstance(error, UnavailableError | ResourceExhaustedError):
                self._fail(loaded_adapter, error)
            raise StageFailedError(clock.current, error) from error
        finally:
            await self._discard(loaded_adapter)
            loaded_adapter.loading = None
            self._forget_unheld(loaded_adapter)
            self._changed.set()

    async def _discard(self, loaded_adapter: LoadedAdapter) -> None:
        """What was loaded and did not get through must not stay."""
        if loaded_adapter.state is LoadedAdapterState.LOADING:
            with contextlib.suppress(EngineUnavailableError):
                await self._take_out(loaded_adapter)

    async def _bring(self, loaded_adapter: LoadedAdapter, clock: StageClock) -> None:
        """Through all stages to READY."""
        if loaded_adapter.adapter is not None and await self._is_spared(loaded_adapter):
            return
        began_s = self._clock()
        loaded_adapter.state, loaded_adapter.error = LoadedAdapterState.LOADING, None
        clock.reach(FETCH)
        engine = self._ready_engine()
        folder = await self._files.fetch(loaded_adapter.revision)
        clock.reach(VERIFY)
        await self._files.verify(loaded_adapter.revision, folder, max_rank=engine.max_rank)
        clock.reach(LOAD)
        waited_s = await self._into_engine(loaded_adapter, engine, folder)
        loaded_adapter.cost_s = self._clock() - began_s - waited_s
        if loaded_adapter.proof is None or loaded_adapter.proof.certificate.engine_version != engine.version:
            assert loaded_adapter.adapter is not None
            clock.reach(PROVE)
            certificate = await self._prove(engine, loaded_adapter.adapter)
            self._check_alive(engine)
            proof = Proof(certificate=certificate, stages=clock.end())
            await self._proofs.put_proof(loaded_adapter.revision.sha256, proof)
            loaded_adapter.proof = proof
        metrics.adapter_load_seconds.observe(loaded_adapter.cost_s)
        loaded_adapter.state = LoadedAdapterState.READY
        self._policy.use(loaded_adapter.worth, loaded_adapter.cost_s)

    async def _is_spared(self, loaded_adapter: LoadedAdapter) -> bool:
        """It was to make room: once the newcomer is in, whether another left instead."""
        async with self._turn:
            return loaded_adapter.adapter is not None

    async def _into_engine(self, loaded_adapter: LoadedAdapter, engine: Engine, folder: pathlib.Path) -> float:
        """Makes room and loads; the time spent on waiting for a place, in seconds."""
        queued_s = self._clock()
        async with self._turn:
            await self._make_room(loaded_adapter)
            async with self._lock:
                self._check_alive(engine)
                waited_s = self._clock() - queued_s
                number = next(self._numbers)
                adapter = EngineAdapter(f"{loaded_adapter.revision.loaded_adapter}.{number}", number, folder)
                await engine.load_adapter(adapter)
                self._check_alive(engine)
                loaded_adapter.adapter = adapter
        return waited_s

    def _check_alive(self, engine: Engine) -> None:
        if self._engine is not engine:
            raise EngineUnavailableError("the engine was lost during the load; repeat the call")

    def _fail(self, loaded_adapter: LoadedAdapter, error: LuthierError) -> None:
        """It is reported until it can be loaded. What no deployment holds is forgotten instead."""
        loaded_adapter.state, loaded_adapter.error, loaded_adapter.failed_s = (
            LoadedAdapterState.FAILED,
            error,
            self._clock(),
        )
        held_by = sorted(loaded_adapter.held_by)
        log.error("an adapter could not be loaded", extra={"deployments": held_by, "reason": error.reason})

    async def _take_out(self, loaded_adapter: LoadedAdapter) -> None:
        """Out of the engine. The table says so first, so that nobody leases it any more."""
        adapter, loaded_adapter.adapter = loaded_adapter.adapter, None
        loaded_adapter.is_leaving = False
        if loaded_adapter.state is not LoadedAdapterState.FAILED:
            loaded_adapter.state = LoadedAdapterState.COLD
        self._forget_unheld(loaded_adapter)
        engine = self._engine
        if adapter is not None and engine is not None:
            async with self._lock:  # in turn: a load that found this place free waits for it
                if self._engine is engine:
                    await engine.unload_adapter(adapter)

    def _forget_unheld(self, loaded_adapter: LoadedAdapter) -> None:
        """Keeps in the table what is held, in the engine, or awaited."""
        is_wanted = loaded_adapter.held_by or loaded_adapter.adapter is not None or loaded_adapter.loading is not None
        if not is_wanted and self._by_sha256.get(loaded_adapter.revision.sha256) is loaded_adapter:
            del self._by_sha256[loaded_adapter.revision.sha256]

    async def _make_room(self, newcomer: LoadedAdapter) -> None:
        """One place, in turn. AdapterSlotsFullError if all are pinned.

        If every adapter that may leave is leased, the least wanted takes no new leases until one of them is idle: so a
        cold adapter gets its turn however busy the warm ones are.
        """
        chosen: LoadedAdapter | None = None
        try:
            while self._is_full(newcomer):
                has_place = self.loaded_count < self._max_cpu_loras  # then it is the bound on unheld ones
                leaving = [one for one in self._resident() if one.may_leave or one is chosen]
                idle = [one for one in leaving if one.lease_count == 0 and not (has_place and one.held_by)]
                if idle:
                    await self._evict(min(idle, key=lambda one: (bool(one.held_by), *rank(one.worth))))
                    continue
                if has_place:
                    return  # that bound is soft while requests lease them
                if all(one.pinned_by for one in self._resident()):
                    raise AdapterSlotsFullError(self._max_cpu_loras)
                if chosen is None and leaving:
                    chosen = min(leaving, key=lambda one: rank(one.worth))
                    chosen.is_leaving = True
                self._changed.clear()
                await self._changed.wait()
        finally:
            if chosen is not None:
                chosen.is_leaving = False

    def _is_full(self, newcomer: LoadedAdapter) -> bool:
        resident = self._resident()
        unheld_count = sum(not loaded_adapter.held_by for loaded_adapter in resident)
        return len(resident) >= self._max_cpu_loras or (not newcomer.held_by and unheld_count >= self._max_unheld)

    async def _evict(self, loaded_adapter: LoadedAdapter) -> None:
        self._policy.evict(loaded_adapter.worth)
        metrics.adapter_evictions.inc()
        await self._take_out(loaded_adapter)

    def hold(
        self, revision: AdapterRevision, deployment: str, *, is_pinned: bool = False, proof: Proof | None = None
    ) -> None:
        """Registers the revision for a deployment; `is_pinned`: it stays in the engine once it is there."""
        loaded_adapter = self._by_sha256.setdefault(revision.sha256, LoadedAdapter(revision))
        loaded_adapter.held_by.add(deployment)
        loaded_adapter.proof = loaded_adapter.proof or proof
        if is_pinned:
            loaded_adapter.pinned_by.add(deployment)
        else:
            loaded_adapter.pinned_by.discard(deployment)
            self._changed.set()

    def note_stage(self, revision: AdapterRevision, stage: Stage) -> None:
        """The revision passed a stage outside of the engine; the last time counts."""
        loaded_adapter = self.get(revision)
        if loaded_adapter is not None and loaded_adapter.proof is not None:
            others = tuple(one for one in loaded_adapter.proof.stages if one.name != stage.name)
            loaded_adapter.proof = replace(loaded_adapter.proof, stages=(*others, stage))

    def release(self, revision: AdapterRevision, deployment: str) -> None:
        """The deployment no longer needs it: without other holders it drains, and is unloaded after its last lease."""
        loaded_adapter = self.get(revision)
        if loaded_adapter is None:
            return
        loaded_adapter.held_by.discard(deployment)
        loaded_adapter.pinned_by.discard(deployment)
        if not loaded_adapter.held_by and loaded_adapter.state is LoadedAdapterState.READY:
            loaded_adapter.state = LoadedAdapterState.DRAINING
            self._unload_if_drained(loaded_adapter)
        self._forget_unheld(loaded_adapter)

    @contextlib.contextmanager
    def lease(self, revision: AdapterRevision) -> Iterator[EngineAdapter]:
        """The revision's weights, which stay as they are and where they are until the block ends.

        EngineUnavailableError if they are not there. The leasing itself awaits nothing.
        """
        loaded_adapter = self.get(revision)
        if loaded_adapter is None or loaded_adapter.adapter is None or not loaded_adapter.can_be_leased:
            raise EngineUnavailableError(f"{revision.name} is not loaded; try again", metadata={"name": revision.name})
        loaded_adapter.lease_count += 1
        self._policy.use(loaded_adapter.worth, loaded_adapter.cost_s)
        try:
            yield loaded_adapter.adapter
        finally:
            loaded_adapter.lease_count -= 1
            self._changed.set()
            self._unload_if_drained(loaded_adapter)

    @contextlib.asynccontextmanager
    async def lease_on_demand(self, revision: AdapterRevision) -> AsyncIterator[EngineAdapter]:
        """Like `lease`, and loads the revision first if need be.

        EngineUnavailableError if it could not be loaded a moment ago: nobody waits for the same failure again.
        """
        loaded_adapter = self.get(revision)
        if loaded_adapter is None or not loaded_adapter.can_be_leased:
            if loaded_adapter is not None and loaded_adapter.error is not None:
                self._check_retry(loaded_adapter, loaded_adapter.error)
            try:
                await self.ensure(revision)
            except StageFailedError as failed:
                raise _unavailable(revision, failed.cause) from failed
        with self.lease(revision) as adapter:
            yield adapter

    def _check_retry(self, loaded_adapter: LoadedAdapter, error: LuthierError) -> None:
        remaining_s = loaded_adapter.failed_s + FAILED_RETRY_S - self._clock()
        if loaded_adapter.loading is None and remaining_s > 0:
            raise _unavailable(loaded_adapter.revision, error)

    def _unload_if_drained(self, loaded_adapter: LoadedAdapter) -> None:
        if (
            loaded_adapter.state is LoadedAdapterState.DRAINING
            and loaded_adapter.lease_count == 0
            and self._engine is not None
        ):
            self._spawn(self._unload_drained(loaded_adapter))

    async def _unload_drained(self, loaded_adapter: LoadedAdapter) -> None:
        if loaded_adapter.state is LoadedAdapterState.DRAINING and loaded_adapter.lease_count == 0:
            with contextlib.suppress(EngineUnavailableError):
                await self._take_out(loaded_adapter)

    def _ready_engine(self) -> Engine:
        if self._engine is None:
            raise EngineUnavailableError("the engine is starting; try again in some seconds", retry_after_s=10.0)
        return self._engine

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, StageFailedError):
            log.error("an adapter's load or unload broke", exc_info=error)

    async def settled(self) -> None:
        """Returns when every load and unload under way has ended."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def _unavailable(revision: AdapterRevision, cause: LuthierError) -> LuthierError:
    """What a request is told: a passing trouble as it is, anything else as a loaded adapter that cannot serve."""
    if isinstance(cause, UnavailableError | ResourceExhaustedError):
        return cause
    return EngineUnavailableError(
        f"{revision.name} cannot be served: {cause}", metadata={"cause": cause.reason}, retry_after_s=FAILED_RETRY_S
    )
