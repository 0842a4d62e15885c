"""Immutable adapter generations: registered by deployments, in the engine while they are used, leased by requests.

Three tiers: vLLM moves adapters between its batch slots and host memory by itself; this module moves them between host
memory and disk. A cold one is loaded by its first request, once for all that wait; the one whose stay is worth least
makes room (`residency`). A leased or pinned generation stays.

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
from luthierd.inference.domain.model import AdapterRevision, GenerationState, Proof, Stage
from luthierd.inference.engine.host import Engine, EngineAdapter
from luthierd.inference.domain.errors import AdapterSlotsFullError, EngineUnavailableError
from luthierd.inference.domain.model import stages
from luthierd.inference.adapters.loaded_adapter import AdapterFiles, Generation, ProofStore, Prove
from luthierd.inference.adapters.residency import GreedyDual, rank
from luthierd.inference.domain.stages import StageClock, StageFailedError

log = logging.getLogger(__name__)

FAILED_RETRY_S = 10.0
"""A generation that could not be loaded is tried again by a request after this time: its files may be back."""


class Generations:
    """All generations. At most `max_loaded` are in the engine, of which `max_unheld` may be there for no deployment."""

    def __init__(
        self, *, files: AdapterFiles, prove: Prove, proofs: ProofStore, max_loaded: int, max_unheld: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._files, self._prove, self._proofs = files, prove, proofs
        self._clock = clock
        self._max_loaded, self._max_unheld = max_loaded, max_unheld
        self._by_sha256: dict[str, Generation] = {}
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
        return self._max_loaded - 1

    def get(self, revision: AdapterRevision) -> Generation | None:
        """The generation of a revision, in whatever state."""
        return self._by_sha256.get(revision.sha256)

    @property
    def loaded_count(self) -> int:
        """Adapters in the engine."""
        return len(self._resident())

    def _resident(self) -> list[Generation]:
        return [generation for generation in self._by_sha256.values() if generation.adapter is not None]

    def start(self, engine: Engine) -> None:
        """A fresh engine is there, and answers at once; what is held is loaded behind the requests."""
        self._engine = engine
        self._spawn(self._warm(engine))

    async def _warm(self, engine: Engine) -> None:
        """Loads what is held, pinned and recently used first, as far as there are places; looks after the rest."""
        wanted = [generation for generation in self._by_sha256.values() if generation.held_by]
        wanted.sort(key=lambda one: (not one.pinned_by, -one.worth.used))
        for generation in wanted:
            if self._engine is not engine:
                return
            with contextlib.suppress(StageFailedError):  # the generation says so
                if self.loaded_count < self._max_loaded:
                    await self._ensure(generation)
                else:
                    await self._look_after(generation)

    async def _look_after(self, generation: Generation) -> None:
        """A cold generation whose files are gone is reported before anybody asks for it."""
        try:
            await self._files.check_present(generation.revision)
        except LuthierError as error:
            if generation.state is GenerationState.COLD and generation.loading is None:
                self._fail(generation, error)

    def forget_all(self) -> None:
        """The engine died, and everything that was loaded with it."""
        self._engine = None
        for generation in list(self._by_sha256.values()):
            generation.adapter, generation.is_leaving = None, False
            if generation.state is not GenerationState.FAILED:
                generation.state = GenerationState.COLD
            self._forget_unheld(generation)
        self._changed.set()

    async def ensure(self, revision: AdapterRevision) -> Generation:
        """Loads and, the first time, proves a revision unless it is READY; one load for all that wait.

        StageFailedError. What no deployment holds then leaves nothing behind.
        """
        generation = self._by_sha256.setdefault(revision.sha256, Generation(revision))
        await self._ensure(generation)
        return generation

    async def _ensure(self, generation: Generation) -> None:
        """The waiting protect what they wait for: it cannot leave between its load and their leases."""
        if generation.state is GenerationState.DRAINING:
            generation.state = GenerationState.READY  # it has all its weights: it may stay
        if generation.can_be_leased:
            return
        generation.waiting_count += 1
        try:
            if generation.loading is None:
                generation.loading = self._spawn(self._load(generation))
            await asyncio.shield(generation.loading)
        finally:
            generation.waiting_count -= 1
            self._changed.set()

    async def _load(self, generation: Generation) -> None:
        """One load. It goes on when nobody waits for it any more: the engine cannot be stopped half-way."""
        clock = StageClock(self._clock)
        try:
            await self._bring(generation, clock)
        except LuthierError as error:
            await self._discard(generation)
            if not isinstance(error, UnavailableError | ResourceExhaustedError):
                self._fail(generation, error)
            raise StageFailedError(clock.current, error) from error
        finally:
            await self._discard(generation)
            generation.loading = None
            self._forget_unheld(generation)
            self._changed.set()

    async def _discard(self, generation: Generation) -> None:
        """What was loaded and did not get through must not stay."""
        if generation.state is GenerationState.LOADING:
            with contextlib.suppress(EngineUnavailableError):
                await self._take_out(generation)

    async def _bring(self, generation: Generation, clock: StageClock) -> None:
        """Through all stages to READY."""
        if generation.adapter is not None and await self._is_spared(generation):
            return
        began_s = self._clock()
        generation.state, generation.error = GenerationState.LOADING, None
        clock.reach(stages.FETCH)
        engine = self._ready_engine()
        folder = await self._files.fetch(generation.revision)
        clock.reach(stages.VERIFY)
        await self._files.verify(generation.revision, folder, max_rank=engine.max_rank)
        clock.reach(stages.LOAD)
        waited_s = await self._into_engine(generation, engine, folder)
        generation.cost_s = self._clock() - began_s - waited_s
        if generation.proof is None or generation.proof.certificate.engine_version != engine.version:
            assert generation.adapter is not None
            clock.reach(stages.PROVE)
            certificate = await self._prove(engine, generation.adapter)
            self._check_alive(engine)
            proof = Proof(certificate=certificate, stages=clock.end())
            await self._proofs.put_proof(generation.revision.sha256, proof)
            generation.proof = proof
        metrics.adapter_load_seconds.observe(generation.cost_s)
        generation.state = GenerationState.READY
        self._policy.use(generation.worth, generation.cost_s)

    async def _is_spared(self, generation: Generation) -> bool:
        """It was to make room: once the newcomer is in, whether another left instead."""
        async with self._turn:
            return generation.adapter is not None

    async def _into_engine(self, generation: Generation, engine: Engine, folder: pathlib.Path) -> float:
        """Makes room and loads; the time spent on waiting for a place, in seconds."""
        queued_s = self._clock()
        async with self._turn:
            await self._make_room(generation)
            async with self._lock:
                self._check_alive(engine)
                waited_s = self._clock() - queued_s
                number = next(self._numbers)
                adapter = EngineAdapter(f"{generation.revision.generation}.{number}", number, folder)
                await engine.load_adapter(adapter)
                self._check_alive(engine)
                generation.adapter = adapter
        return waited_s

    def _check_alive(self, engine: Engine) -> None:
        if self._engine is not engine:
            raise EngineUnavailableError("the engine was lost during the load; repeat the call")

    def _fail(self, generation: Generation, error: LuthierError) -> None:
        """It is reported until it can be loaded. What no deployment holds is forgotten instead."""
        generation.state, generation.error, generation.failed_s = GenerationState.FAILED, error, self._clock()
        held_by = sorted(generation.held_by)
        log.error("an adapter could not be loaded", extra={"deployments": held_by, "reason": error.reason})

    async def _take_out(self, generation: Generation) -> None:
        """Out of the engine. The table says so first, so that nobody leases it any more."""
        adapter, generation.adapter = generation.adapter, None
        generation.is_leaving = False
        if generation.state is not GenerationState.FAILED:
            generation.state = GenerationState.COLD
        self._forget_unheld(generation)
        engine = self._engine
        if adapter is not None and engine is not None:
            async with self._lock:  # in turn: a load that found this place free waits for it
                if self._engine is engine:
                    await engine.unload_adapter(adapter)

    def _forget_unheld(self, generation: Generation) -> None:
        """Keeps in the table what is held, in the engine, or awaited."""
        is_wanted = generation.held_by or generation.adapter is not None or generation.loading is not None
        if not is_wanted and self._by_sha256.get(generation.revision.sha256) is generation:
            del self._by_sha256[generation.revision.sha256]

    async def _make_room(self, newcomer: Generation) -> None:
        """One place, in turn. AdapterSlotsFullError if all are pinned.

        If every adapter that may leave is leased, the least wanted takes no new leases until one of them is idle: so a
        cold adapter gets its turn however busy the warm ones are.
        """
        chosen: Generation | None = None
        try:
            while self._is_full(newcomer):
                has_place = self.loaded_count < self._max_loaded  # then it is the bound on unheld ones
                leaving = [one for one in self._resident() if one.may_leave or one is chosen]
                idle = [one for one in leaving if one.lease_count == 0 and not (has_place and one.held_by)]
                if idle:
                    await self._evict(min(idle, key=lambda one: (bool(one.held_by), *rank(one.worth))))
                    continue
                if has_place:
                    return  # that bound is soft while requests lease them
                if all(one.pinned_by for one in self._resident()):
                    raise AdapterSlotsFullError(self._max_loaded)
                if chosen is None and leaving:
                    chosen = min(leaving, key=lambda one: rank(one.worth))
                    chosen.is_leaving = True
                self._changed.clear()
                await self._changed.wait()
        finally:
            if chosen is not None:
                chosen.is_leaving = False

    def _is_full(self, newcomer: Generation) -> bool:
        resident = self._resident()
        unheld_count = sum(not generation.held_by for generation in resident)
        return len(resident) >= self._max_loaded or (not newcomer.held_by and unheld_count >= self._max_unheld)

    async def _evict(self, generation: Generation) -> None:
        self._policy.evict(generation.worth)
        metrics.adapter_evictions.inc()
        await self._take_out(generation)

    def hold(
        self, revision: AdapterRevision, deployment: str, *, is_pinned: bool = False, proof: Proof | None = None
    ) -> None:
        """Registers the revision for a deployment; `is_pinned`: it stays in the engine once it is there."""
        generation = self._by_sha256.setdefault(revision.sha256, Generation(revision))
        generation.held_by.add(deployment)
        generation.proof = generation.proof or proof
        if is_pinned:
            generation.pinned_by.add(deployment)
        else:
            generation.pinned_by.discard(deployment)
            self._changed.set()

    def note_stage(self, revision: AdapterRevision, stage: Stage) -> None:
        """The revision passed a stage outside of the engine; the last time counts."""
        generation = self.get(revision)
        if generation is not None and generation.proof is not None:
            others = tuple(one for one in generation.proof.stages if one.name != stage.name)
            generation.proof = replace(generation.proof, stages=(*others, stage))

    def release(self, revision: AdapterRevision, deployment: str) -> None:
        """The deployment no longer needs it: without other holders it drains, and is unloaded after its last lease."""
        generation = self.get(revision)
        if generation is None:
            return
        generation.held_by.discard(deployment)
        generation.pinned_by.discard(deployment)
        if not generation.held_by and generation.state is GenerationState.READY:
            generation.state = GenerationState.DRAINING
            self._unload_if_drained(generation)
        self._forget_unheld(generation)

    @contextlib.contextmanager
    def lease(self, revision: AdapterRevision) -> Iterator[EngineAdapter]:
        """The revision's weights, which stay as they are and where they are until the block ends.

        EngineUnavailableError if they are not there. The leasing itself awaits nothing.
        """
        generation = self.get(revision)
        if generation is None or generation.adapter is None or not generation.can_be_leased:
            raise EngineUnavailableError(f"{revision.name} is not loaded; try again", metadata={"name": revision.name})
        generation.lease_count += 1
        self._policy.use(generation.worth, generation.cost_s)
        try:
            yield generation.adapter
        finally:
            generation.lease_count -= 1
            self._changed.set()
            self._unload_if_drained(generation)

    @contextlib.asynccontextmanager
    async def lease_on_demand(self, revision: AdapterRevision) -> AsyncIterator[EngineAdapter]:
        """Like `lease`, and loads the revision first if need be.

        EngineUnavailableError if it could not be loaded a moment ago: nobody waits for the same failure again.
        """
        generation = self.get(revision)
        if generation is None or not generation.can_be_leased:
            if generation is not None and generation.error is not None:
                self._check_retry(generation, generation.error)
            try:
                await self.ensure(revision)
            except StageFailedError as failed:
                raise _unavailable(revision, failed.cause) from failed
        with self.lease(revision) as adapter:
            yield adapter

    def _check_retry(self, generation: Generation, error: LuthierError) -> None:
        remaining_s = generation.failed_s + FAILED_RETRY_S - self._clock()
        if generation.loading is None and remaining_s > 0:
            raise _unavailable(generation.revision, error)

    def _unload_if_drained(self, generation: Generation) -> None:
        if generation.state is GenerationState.DRAINING and generation.lease_count == 0 and self._engine is not None:
            self._spawn(self._unload_drained(generation))

    async def _unload_drained(self, generation: Generation) -> None:
        if generation.state is GenerationState.DRAINING and generation.lease_count == 0:
            with contextlib.suppress(EngineUnavailableError):
                await self._take_out(generation)

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
    """What a request is told: a passing trouble as it is, anything else as a generation that cannot serve."""
    if isinstance(cause, UnavailableError | ResourceExhaustedError):
        return cause
    return EngineUnavailableError(
        f"{revision.name} cannot be served: {cause}", metadata={"cause": cause.reason}, retry_after_s=FAILED_RETRY_S
    )
