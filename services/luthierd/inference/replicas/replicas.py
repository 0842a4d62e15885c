"""Several servers, one desired state: a change is published only when every live replica has proved what it routes to.

    the replica that was called     stages, opens an intent -> waits for proofs -> publishes (compare-and-set) -> waits
                                    until every live replica follows -> answers
    every other live replica        sees the intent -> loads, proves, holds -> writes its proof or its refusal
                                    sees the new version -> routes to it, in one step -> lets the intent's hold go

A replica is live while its lease runs and its engine is ready; one that dies stops counting when its lease ends. The
intent of a caller that died is passed over. All of it is polled; docs/decisions/0011 has the bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from luthierd.errors import LuthierError, UnavailableError
from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.deployments.deployments import Deployments, DeploymentStore
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel, Deployment
from luthierd.inference.domain.engine import EngineState, StageFailedError
from luthierd.inference.domain.errors import EngineUnavailableError, ReplicaRefusedError, ReplicasTooSlowError
from luthierd.inference.domain.parity import Proof
from luthierd.inference.engine.engine import Engine
from luthierd.inference.engine.host import EngineHost

log = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
"""Two renewals may fail before a lease ends."""


@dataclass(frozen=True)
class Intent:
    """A change that a replica wants to publish, and the revisions that the others must prove before."""

    id: str
    deployment: str
    coordinator: str
    revisions: tuple[AdapterRevision, ...]


@dataclass(frozen=True)
class Refusal:
    """Why a replica cannot serve a revision."""

    replica: str
    revision: str
    reason: str
    message: str


@dataclass(frozen=True)
class Desired:
    """All deployments, at least as new as `version`, which every published change increases."""

    version: int
    deployments: tuple[Deployment, ...]


@dataclass(frozen=True)
class Pulse:
    """What a replica looks at in every poll: the version, and the open intents of other live replicas."""

    version: int
    intents: tuple[Intent, ...]


@dataclass(frozen=True)
class Barrier:
    """How an intent stands: `version` once it is published, until then who is missing or has refused."""

    version: int = 0
    missing: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()


Change = Callable[[DeploymentStore], Awaitable[None]]
"""A compare-and-set of one deployment."""


class ReplicaStore(Protocol):
    """What replicas share. Times are the database's, so that clocks of machines need not agree."""

    async def desired(self) -> Desired:
        """What to route by."""

    async def join(self, replica: str, version: int, *, lease_s: float) -> bool:
        """Counts the replica as live from now on; False, and nothing, if `version` is no longer the newest."""

    async def renew(self, replica: str, *, lease_s: float) -> bool:
        """False if the lease had ended already: the replica must join again."""

    async def follow(self, replica: str, version: int) -> None:
        """Says that the replica routes by `version`."""

    async def leave(self, replica: str) -> None:
        """Stops counting it."""

    async def pulse(self, replica: str) -> Pulse:
        """See `Pulse`."""

    async def open_intent(self, intent: Intent) -> None:
        """Lets the other replicas see it."""

    async def close_intent(self, intent: Intent) -> None:
        """Gives it up, if it is not published."""

    async def prove(self, intent: Intent, replica: str, refusal: Refusal | None) -> None:
        """The replica holds all revisions of the intent loaded and proved; or it refuses."""

    async def publish(self, intent: Intent, change: Change) -> Barrier:
        """Makes the change and closes the intent, in one transaction, if every live replica has proved it.

        EtagMismatchError; ReplicaLeaseLostError if the coordinator itself is not live.
        """

    async def live_count(self) -> int:
        """Replicas that are live."""

    async def behind(self, replica: str, version: int) -> tuple[str, ...]:
        """Live replicas, other than this one, that do not route by `version` or a newer one yet."""

    async def chosen_base_model(self) -> BaseModel | None:
        """What every replica's engine holds."""


@dataclass(frozen=True, kw_only=True)
class ReplicaTimes:
    """Seconds. `lease_s`: a dead replica counts so long; `poll_s`: between two looks; `proof_s`: for all proofs."""

    lease_s: float
    poll_s: float
    proof_s: float


class Replicas:
    """One replica among the others. A `DeploymentStore` whose changes wait for every live replica."""

    def __init__(
        self,
        name: str,
        *,
        store: ReplicaStore,
        direct: DeploymentStore,
        times: ReplicaTimes,
        set_serving: Callable[[bool], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self._store, self._direct, self._times = name, store, direct, times
        self._report, self._clock = set_serving, clock
        self._parts: tuple[EngineHost, Deployments, LoadedAdapters] | None = None
        self._version = -1
        self._following = asyncio.Lock()
        self._membership = asyncio.Lock()  # or a `leave` from before the start could land after its `join`
        self._is_live, self._is_ready = False, False
        self._renewed_s = 0.0
        self._held: dict[str, Intent] = {}  # intents whose revisions are held here
        self._taken: set[str] = set()  # of them, those that this engine has proved or refused, or is about to
        self._group: asyncio.TaskGroup | None = None
        self._woken = asyncio.Event()

    def attach(self, host: EngineHost, deployments: Deployments, loaded_adapters: LoadedAdapters) -> None:
        """Takes part in the engine's life: it counts as live only with a ready engine that has the newest state."""
        self._parts = host, deployments, loaded_adapters
        host.on_started, host.on_died = self._started, self._died

    # What `Deployments` calls

    async def live_count(self) -> int:
        """Replicas that are live, this one among them. SharedStateUnreachableError."""
        return await self._store.live_count()

    async def deployments(self) -> list[Deployment]:
        """All of them."""
        return await self._direct.deployments()

    async def create(self, deployment: Deployment) -> None:
        """EtagMismatchError, ReplicaRefusedError, ReplicasTooSlowError, ReplicaLeaseLostError."""
        await self._publish(deployment.name, deployment.held, lambda store: store.create(deployment))

    async def replace(self, deployment: Deployment, *, change: int) -> None:
        """EtagMismatchError, ReplicaRefusedError, ReplicasTooSlowError, ReplicaLeaseLostError."""
        await self._publish(deployment.name, deployment.held, lambda store: store.replace(deployment, change=change))

    async def delete(self, name: str, *, change: int) -> None:
        """EtagMismatchError, ReplicaLeaseLostError."""
        await self._publish(name, (), lambda store: store.delete(name, change=change))

    async def proofs(self) -> dict[str, Proof]:
        """What was proved, by whichever replica, by the adapters' sha256."""
        return await self._direct.proofs()

    async def delete_proofs(self, sha256s: Sequence[str]) -> None:
        """Does nothing: what no deployment holds now another replica may be about to publish."""

    async def _publish(self, deployment: str, revisions: Sequence[AdapterRevision], change: Change) -> None:
        """Returns when every live replica routes by the change."""
        intent = Intent(uuid.uuid4().hex, deployment, self.name, tuple(dict.fromkeys(revisions)))
        await self._store.open_intent(intent)
        try:
            version = await self._proved_by_all(intent, change)
        except BaseException:
            await asyncio.shield(self._store.close_intent(intent))
            raise
        await self._follow()
        await self._followed_by_all(version)

    async def _proved_by_all(self, intent: Intent, change: Change) -> int:
        deadline = self._clock() + self._times.proof_s
        while True:
            barrier = await self._store.publish(intent, change)
            if barrier.version:
                return barrier.version
            if barrier.refusals:
                refusal = barrier.refusals[0]
                raise ReplicaRefusedError(
                    refusal.replica, refusal.revision, cause=refusal.reason, message=refusal.message
                )
            if self._clock() > deadline:
                raise ReplicasTooSlowError(barrier.missing, limit_s=self._times.proof_s)
            await asyncio.sleep(self._times.poll_s)

    async def _followed_by_all(self, version: int) -> None:
        """Ends: a replica either follows or its lease runs out."""
        while await self._store.behind(self.name, version):  # noqa: ASYNC110 - what it waits for happens elsewhere
            await asyncio.sleep(self._times.poll_s)

    # The engine's life

    async def _started(self, engine: Engine) -> None:
        """A fresh engine gets the newest state before it counts."""
        _, deployments, _ = self._all()
        await self._follow()
        await deployments.replay(engine)
        async with self._membership:
            while not await self._store.join(self.name, self._version, lease_s=self._times.lease_s):
                await self._follow()
            self._is_live, self._renewed_s = True, self._clock()

    def _died(self) -> None:
        _, _, loaded_adapters = self._all()
        loaded_adapters.forget_all()
        self._taken.clear()
        self._is_live = False
        self._woken.set()

    async def set_serving(self, is_ready: bool) -> None:
        """What the engine says of itself; a replica whose lease has run out says NOT_SERVING in any case."""
        self._is_ready = is_ready
        await self._report(is_ready and not self._is_cut_off())

    def _is_cut_off(self) -> bool:
        return self._is_live and self._clock() - self._renewed_s > self._times.lease_s

    # Background

    async def run(self) -> None:
        """Renews the lease, follows what others publish, proves what they intend. Until cancelled; then it leaves."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._keep(self._renew, self._times.lease_s / RENEWALS_PER_LEASE))
                group.create_task(self._keep(self._look, self._times.poll_s))
        finally:
            with contextlib.suppress(OSError, LuthierError):
                await asyncio.shield(self._store.leave(self.name))

    async def _keep(self, step: Callable[[], Awaitable[None]], pause_s: float) -> None:
        """A database that does not answer is asked again; requests are answered meanwhile, as the last state says."""
        failed = False
        while True:
            try:
                await step()
                if failed:
                    log.info("the shared state can be reached again")
                failed = False
            except (OSError, LuthierError) as error:
                if not failed:
                    log.warning("the shared state cannot be reached", extra={"error": type(error).__name__})
                failed = True
                await self._report(self._is_ready and not self._is_cut_off())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()
            self._woken.clear()

    async def _renew(self) -> None:
        async with self._membership:
            if not self._is_live:
                await self._store.leave(self.name)
                return
            await self._renew_lease()

    async def _renew_lease(self) -> None:
        began_s, was_cut_off = self._clock(), self._is_cut_off()
        while self._is_live and not await self._store.renew(self.name, lease_s=self._times.lease_s):
            await self._follow()  # others went on without this one: it counts again once it is up to date
            if await self._store.join(self.name, self._version, lease_s=self._times.lease_s):
                log.info("joined again", extra={"replica": self.name})
                break
        self._renewed_s = began_s
        if was_cut_off:
            await self._report(self._is_ready)

    async def _look(self) -> None:
        host, _, loaded_adapters = self._all()
        has_no_model = host.status.state is EngineState.STOPPED
        if has_no_model and (chosen := await self._store.chosen_base_model()):
            await host.want(chosen)
            if host.status.state is EngineState.STARTING:
                await self.set_serving(False)  # until its engine is there, others publish without it
        pulse = await self._store.pulse(self.name)
        if pulse.version > self._version:
            await self._follow()
        self._let_go({intent.id for intent in pulse.intents})
        for intent in pulse.intents:
            if self._is_live and self._group is not None and intent.id not in self._taken:
                self._taken.add(intent.id)
                self._held[intent.id] = intent
                for revision in intent.revisions:
                    loaded_adapters.hold(revision, _holder(intent.id))
                self._group.create_task(self._prove(intent))

    async def _follow(self) -> None:
        """Routes by the newest state, in one step."""
        _, deployments, _ = self._all()
        async with self._following:
            desired = await self._store.desired()
            if desired.version > self._version:
                deployments.adopt(desired.deployments)
                self._version = desired.version
                await self._store.follow(self.name, desired.version)

    async def _prove(self, intent: Intent) -> None:
        """Loads and proves what the intent needs, and holds it until the intent is closed."""
        try:
            await self._store.prove(intent, self.name, await self._refusal(intent))
        except (OSError, UnavailableError):
            self._taken.discard(intent.id)  # the next look tries again: another engine, a database that answers

    async def _refusal(self, intent: Intent) -> Refusal | None:
        """None once all is loaded and proved. EngineUnavailableError."""
        _, _, loaded_adapters = self._all()
        for revision in intent.revisions:
            try:
                await loaded_adapters.ensure(revision)
            except StageFailedError as failed:
                if isinstance(failed.cause, EngineUnavailableError):
                    raise failed.cause from failed
                return Refusal(self.name, revision.name, failed.cause.reason, str(failed.cause))
        return None

    def _let_go(self, open_ids: set[str]) -> None:
        """Of intents that are closed, what their deployments do not hold by now."""
        _, _, loaded_adapters = self._all()
        for closed in self._held.keys() - open_ids:
            self._taken.discard(closed)
            for revision in self._held.pop(closed).revisions:
                loaded_adapters.release(revision, _holder(closed))

    def _all(self) -> tuple[EngineHost, Deployments, LoadedAdapters]:
        assert self._parts is not None, "attach comes first"
        return self._parts


def _holder(intent_id: str) -> str:
    """The name under which an intent holds loaded adapters; no deployment's name begins so."""
    return f"intents/{intent_id}"
