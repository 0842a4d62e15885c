"""Immutable loaded adapters: registered by deployments, in the engine while they are used, leased by requests.

There are three tiers. vLLM moves adapters between its batch slots and host memory; this module moves them between host
memory and disk. A cold adapter is loaded by its first request, once for all requests that wait for it; the adapter that
is least worth keeping makes room (`residency`). A leased or pinned adapter stays.

All decisions (what is loaded, who holds it, who leases it) are made between two awaits of one event loop, so resolving
and leasing are one atomic step. Loads and unloads of the engine run one at a time.
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
from luthierd.inference.adapters.loaded_adapter import AdapterFiles, CheckParity, LoadedAdapter, ParityStore
from luthierd.inference.adapters.residency import GreedyDual
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel
from luthierd.inference.domain.engine import (
    FETCH,
    LOAD,
    PARITY_CHECK,
    VERIFY,
    LoadedAdapterState,
    Stage,
    StageClock,
    StageFailedError,
)
from luthierd.inference.domain.errors import AdapterSlotsFullError, EngineUnavailableError
from luthierd.inference.domain.parity import ParityCheck
from luthierd.inference.engine.engine import Engine, EngineAdapter

log = logging.getLogger(__name__)

FAILED_RETRY_S = 10.0
"""How soon a request tries to load an adapter again that failed to load: its files may be back."""


class LoadedAdapters:
    """All loaded adapters: at most `max_cpu_loras` in the engine, at most `max_unheld` of them without a deployment."""

    def __init__(
        self,
        *,
        files: AdapterFiles,
        check_parity: CheckParity,
        store: ParityStore,
        max_cpu_loras: int,
        max_unheld: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files, self._check_parity, self._store, self._clock = files, check_parity, store, clock
        self._max_cpu_loras, self._max_unheld = max_cpu_loras, max_unheld
        self._by_sha256: dict[str, LoadedAdapter] = {}
        self._numbers = itertools.count(1)
        self._turn = asyncio.Lock()  # held by the load that makes room
        self._lock = asyncio.Lock()  # held by the engine's loads and unloads, never while waiting for a request
        self._engine: Engine | None = None
        self._base_model: BaseModel | None = None
        self._policy = GreedyDual()
        self._changed = asyncio.Event()  # something may be able to leave now
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def max_pinned(self) -> int:
        """One place is left for adapters that are not pinned."""
        return self._max_cpu_loras - 1

    def get(self, revision: AdapterRevision) -> LoadedAdapter | None:
        """The loaded adapter of a revision, in any state."""
        return self._by_sha256.get(revision.sha256)

    @property
    def loaded_count(self) -> int:
        return len(self._resident())

    def _resident(self) -> list[LoadedAdapter]:
        return [one for one in self._by_sha256.values() if one.adapter is not None]

    def start(self, engine: Engine, base_model: BaseModel) -> None:
        """Uses a new engine, which answers at once; held adapters of `base_model` are loaded in the background."""
        self._engine, self._base_model = engine, base_model
        self._spawn(self._warm(engine))

    async def _warm(self, engine: Engine) -> None:
        """Loads what is held, pinned and recently used first, while there are places; checks the files of the rest."""
        wanted = [
            one for one in self._by_sha256.values() if one.held_by and one.revision.base_model == self._base_model
        ]
        wanted.sort(key=lambda one: (not one.pinned_by, -one.worth.used))
        for one in wanted:
            if self._engine is not engine:
                return
            with contextlib.suppress(StageFailedError):  # its state says so
                if self.loaded_count < self._max_cpu_loras:
                    await self._ensure(one)
                else:
                    await self._check_present(one)

    async def _check_present(self, one: LoadedAdapter) -> None:
        """A cold adapter whose files are gone is reported before a request needs it."""
        try:
            await self._files.check_present(one.revision)
        except LuthierError as error:
            if one.state is LoadedAdapterState.COLD and one.loading is None:
                self._fail(one, error)

    def forget_all(self) -> None:
        """The engine is gone, and all that was loaded with it."""
        self._engine = None
        for one in list(self._by_sha256.values()):
            one.adapter, one.is_leaving = None, False
            if one.state is not LoadedAdapterState.FAILED:
                one.state = LoadedAdapterState.COLD
            self._forget_unwanted(one)
        self._changed.set()

    async def ensure(self, revision: AdapterRevision) -> None:
        """Loads a revision unless it is READY and, the first time, checks its parity; callers share one load.

        StageFailedError. A revision held by no deployment then leaves nothing behind.
        """
        await self._ensure(self._by_sha256.setdefault(revision.sha256, LoadedAdapter(revision=revision)))

    async def _ensure(self, one: LoadedAdapter) -> None:
        """While callers wait, the adapter cannot leave: between its load and their leases it stays."""
        if one.state is LoadedAdapterState.DRAINING:
            one.state = LoadedAdapterState.READY  # its weights are complete, it may stay
        if one.can_be_leased:
            return
        one.waiting_count += 1
        try:
            if one.loading is None:
                one.loading = self._spawn(self._load(one))
            await asyncio.shield(one.loading)
        finally:
            one.waiting_count -= 1
            self._changed.set()

    async def _load(self, one: LoadedAdapter) -> None:
        """One load. It continues when no caller waits any more: the engine cannot stop half-way."""
        clock = StageClock(self._clock)
        try:
            await self._bring(one, clock)
        except LuthierError as error:
            await self._discard(one)
            if not isinstance(error, UnavailableError | ResourceExhaustedError):
                self._fail(one, error)
            raise StageFailedError(clock.current, error) from error
        finally:
            await self._discard(one)
            one.loading = None
            self._forget_unwanted(one)
            self._changed.set()

    async def _discard(self, one: LoadedAdapter) -> None:
        """An adapter that was loaded but failed a later stage must not stay."""
        if one.state is LoadedAdapterState.LOADING:
            with contextlib.suppress(EngineUnavailableError):
                await self._take_out(one)

    async def _bring(self, one: LoadedAdapter, clock: StageClock) -> None:
        """Through all stages to READY."""
        if one.adapter is not None and await self._is_spared(one):
            return
        began_s = self._clock()
        one.state, one.error = LoadedAdapterState.LOADING, None
        clock.reach(FETCH)
        engine = self._ready_engine()
        folder = await self._files.fetch(one.revision)
        clock.reach(VERIFY)
        await self._files.verify(one.revision, folder, max_rank=engine.max_rank)
        clock.reach(LOAD)
        adapter, waited_s = await self._load_into(engine, one, folder)
        one.cost_s = self._clock() - began_s - waited_s
        if one.parity_check is None or one.parity_check.certificate.engine_version != engine.version:
            clock.reach(PARITY_CHECK)
            certificate = await self._check_parity(engine, adapter)
            self._check_alive(engine)
            check = ParityCheck(certificate=certificate, stages=clock.end())
            await self._store.put_parity_check(one.revision.sha256, check)
            one.parity_check = check
        metrics.adapter_load_seconds.observe(one.cost_s)
        one.state = LoadedAdapterState.READY
        self._policy.use(one.worth, one.cost_s)

    async def _is_spared(self, one: LoadedAdapter) -> bool:
        """It was chosen to make room: whether another adapter left instead, once the newcomer is in."""
        async with self._turn:
            return one.adapter is not None

    async def _load_into(self, engine: Engine, one: LoadedAdapter, folder: pathlib.Path) -> tuple[EngineAdapter, float]:
        """Makes room and loads. The second value: seconds spent waiting for a place."""
        queued_s = self._clock()
        async with self._turn:
            await self._make_room(one)
            async with self._lock:
                self._check_alive(engine)
                waited_s = self._clock() - queued_s
                number = next(self._numbers)
                adapter = EngineAdapter(f"{one.revision.loaded_adapter}.{number}", number, folder)
                await engine.load_adapter(adapter)
                self._check_alive(engine)
                one.adapter = adapter
        return adapter, waited_s

    def _check_alive(self, engine: Engine) -> None:
        if self._engine is not engine:
            raise EngineUnavailableError("the engine was lost during the load; repeat the call")

    def _fail(self, one: LoadedAdapter, error: LuthierError) -> None:
        """It is reported as FAILED until it can be loaded."""
        one.state, one.error, one.failed_s = LoadedAdapterState.FAILED, error, self._clock()
        log.error("an adapter could not be loaded", extra={"deployments": sorted(one.held_by), "reason": error.reason})

    async def _take_out(self, one: LoadedAdapter) -> None:
        """Out of the engine. The table changes first, so that it takes no new leases."""
        adapter, one.adapter = one.adapter, None
        one.is_leaving = False
        if one.state is not LoadedAdapterState.FAILED:
            one.state = LoadedAdapterState.COLD
        self._forget_unwanted(one)
        engine = self._engine
        if adapter is not None and engine is not None:
            async with self._lock:  # a load that found this place free waits for the unload
                if self._engine is engine:
                    await engine.unload_adapter(adapter)

    def _forget_unwanted(self, one: LoadedAdapter) -> None:
        if not one.is_wanted and self.get(one.revision) is one:
            del self._by_sha256[one.revision.sha256]

    async def _make_room(self, newcomer: LoadedAdapter) -> None:
        """Waits for one free place. AdapterSlotsFullError if all are pinned.

        If every adapter that may leave is leased, the least worthy takes no new leases until one of them is idle: so a
        cold adapter gets its turn however busy the warm ones are.
        """
        chosen: LoadedAdapter | None = None
        try:
            while self._is_full(newcomer):
                has_place = self.loaded_count < self._max_cpu_loras  # then the limit is that of unheld adapters
                leaving = [one for one in self._resident() if one.may_leave or one is chosen]
                idle = [one for one in leaving if one.lease_count == 0 and not (has_place and one.held_by)]
                if idle:
                    await self._evict(min(idle, key=lambda one: (bool(one.held_by), one.worth)))
                    continue
                if has_place:
                    return  # the limit of unheld adapters is soft while all of them are leased
                if all(one.pinned_by for one in self._resident()):
                    raise AdapterSlotsFullError(limit=self._max_cpu_loras)
                if chosen is None and leaving:
                    chosen = min(leaving, key=lambda one: one.worth)
                    chosen.is_leaving = True
                self._changed.clear()
                await self._changed.wait()
        finally:
            if chosen is not None:
                chosen.is_leaving = False

    def _is_full(self, newcomer: LoadedAdapter) -> bool:
        resident = self._resident()
        unheld_count = sum(not one.held_by for one in resident)
        return len(resident) >= self._max_cpu_loras or (not newcomer.held_by and unheld_count >= self._max_unheld)

    async def _evict(self, one: LoadedAdapter) -> None:
        self._policy.evict(one.worth)
        metrics.adapter_evictions.inc()
        await self._take_out(one)

    def hold(
        self,
        revision: AdapterRevision,
        deployment: str,
        *,
        is_pinned: bool = False,
        parity_check: ParityCheck | None = None,
    ) -> None:
        """Registers the revision for a deployment. `is_pinned`: once in the engine, it stays there."""
        one = self._by_sha256.setdefault(revision.sha256, LoadedAdapter(revision=revision))
        one.held_by.add(deployment)
        one.parity_check = one.parity_check or parity_check
        if is_pinned:
            one.pinned_by.add(deployment)
        else:
            one.pinned_by.discard(deployment)
            self._changed.set()

    def note_stage(self, revision: AdapterRevision, stage: Stage) -> None:
        """Records a stage passed outside of the engine, in place of an earlier one of that name."""
        one = self.get(revision)
        if one is not None and one.parity_check is not None:
            others = tuple(other for other in one.parity_check.stages if other.name != stage.name)
            one.parity_check = replace(one.parity_check, stages=(*others, stage))

    def release(self, revision: AdapterRevision, deployment: str) -> None:
        """The deployment no longer needs it: without other holders it drains, and is unloaded after its last lease."""
        one = self.get(revision)
        if one is None:
            return
        one.held_by.discard(deployment)
        one.pinned_by.discard(deployment)
        if not one.held_by and one.state is LoadedAdapterState.READY:
            one.state = LoadedAdapterState.DRAINING
            self._unload_if_drained(one)
        self._forget_unwanted(one)

    @contextlib.contextmanager
    def lease(self, revision: AdapterRevision) -> Iterator[EngineAdapter]:
        """The revision's weights, which stay in the engine until the block ends.

        EngineUnavailableError if they are not there. Leasing awaits nothing.
        """
        one = self.get(revision)
        if one is None or one.adapter is None or not one.can_be_leased:
            raise EngineUnavailableError(f"{revision.name} is not loaded; try again", metadata={"name": revision.name})
        one.lease_count += 1
        self._policy.use(one.worth, one.cost_s)
        try:
            yield one.adapter
        finally:
            one.lease_count -= 1
            self._changed.set()
            self._unload_if_drained(one)

    @contextlib.asynccontextmanager
    async def lease_on_demand(self, revision: AdapterRevision) -> AsyncIterator[EngineAdapter]:
        """Like `lease`, but loads the revision first if necessary.

        EngineUnavailableError at once if a load failed within the last `FAILED_RETRY_S`.
        """
        one = self.get(revision)
        if one is None or not one.can_be_leased:
            is_failed = one is not None and one.loading is None and one.failed_s + FAILED_RETRY_S > self._clock()
            if one is not None and one.error is not None and is_failed:
                raise _unavailable(revision, one.error)
            try:
                await self.ensure(revision)
            except StageFailedError as failed:
                raise _unavailable(revision, failed.cause) from failed
        with self.lease(revision) as adapter:
            yield adapter

    def _unload_if_drained(self, one: LoadedAdapter) -> None:
        async def unload() -> None:
            if is_drained():  # it may have been leased again
                with contextlib.suppress(EngineUnavailableError):
                    await self._take_out(one)

        def is_drained() -> bool:
            return one.state is LoadedAdapterState.DRAINING and one.lease_count == 0

        if is_drained() and self._engine is not None:
            self._spawn(unload())

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
            log.error("loading or unloading an adapter failed", exc_info=error)

    async def settled(self) -> None:
        """Returns when all running loads and unloads have ended."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def _unavailable(revision: AdapterRevision, cause: LuthierError) -> LuthierError:
    """What a request gets: a temporary error as it is, any other as an adapter that cannot be served."""
    if isinstance(cause, UnavailableError | ResourceExhaustedError):
        return cause
    return EngineUnavailableError(
        f"{revision.name} cannot be served: {cause}", metadata={"cause": cause.reason}, retry_after_s=FAILED_RETRY_S
    )
