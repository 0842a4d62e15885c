"""Several servers with one desired state: a change is published once every live replica has checked what it routes to.

    the replica that was called     stages, opens an intent -> waits for reports -> publishes (compare-and-set) -> waits
                                    until every live replica follows -> answers
    every other live replica        sees the intent -> loads, checks and holds -> reports success or refusal
                                    sees the new version -> routes by it, in one step -> releases the intent's hold

A replica is live while its lease runs and its engine is ready; a dead one stops counting when its lease expires. The
intents of a dead replica are ignored. Everything is polled; docs/decisions/0011 has the bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence

from luthierd.errors import LuthierError, UnavailableError
from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.deployments.deployments import Deployments, DeploymentStore
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel, Deployment
from luthierd.inference.domain.engine import StageFailedError
from luthierd.inference.domain.errors import EngineUnavailableError, ReplicaRefusedError, ReplicasTooSlowError
from luthierd.inference.domain.parity import ParityCheck
from luthierd.inference.engine.engine import Engine
from luthierd.inference.engine.host import EngineHost
from luthierd.inference.replicas.store import Change, Intent, Refusal, SqlReplicaStore

log = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
"""Two renewals may fail before a lease expires."""


class Replicas:
    """One replica among the others. A `DeploymentStore` whose changes wait for every live replica."""

    _host: EngineHost
    _deployments: Deployments
    _loaded_adapters: LoadedAdapters

    def __init__(
        self,
        name: str,
        *,
        store: SqlReplicaStore,
        direct: DeploymentStore,
        lease_s: float,
        poll_s: float,
        check_s: float,
        set_serving: Callable[[bool], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lease_s`: how long a dead replica counts; `check_s`: how long a change waits for all reports."""
        self.name, self._store, self._direct = name, store, direct
        self._lease_s, self._poll_s, self._check_s = lease_s, poll_s, check_s
        self._report, self._clock = set_serving, clock
        self._version = -1
        self._following = asyncio.Lock()
        self._membership = asyncio.Lock()  # or a `leave` from before the start could follow its `join`
        self._is_live, self._is_ready = False, False
        self._renewed_s = 0.0
        self._held: dict[str, Intent] = {}  # intents whose revisions are held here
        self._taken: set[str] = set()  # of them, those that this engine has checked or is about to
        self._group: asyncio.TaskGroup | None = None
        self._woken = asyncio.Event()

    def attach(self, host: EngineHost, deployments: Deployments, loaded_adapters: LoadedAdapters) -> None:
        """Follows the engine's life: a replica is live only with a ready engine that has the newest state."""
        self._host, self._deployments, self._loaded_adapters = host, deployments, loaded_adapters
        host.on_started, host.on_lost = self._started, self._lost

    # The `DeploymentStore`

    async def live_count(self) -> int:
        """Live replicas, including this one. DatabaseUnavailableError."""
        return await self._store.live_count()

    async def deployments(self) -> list[Deployment]:
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

    async def parity_checks(self) -> dict[str, ParityCheck]:
        return await self._direct.parity_checks()

    async def delete_parity_checks(self, sha256s: Sequence[str]) -> None:
        """Does nothing: another replica may be about to publish what no deployment holds now."""

    async def _publish(self, deployment: str, revisions: Sequence[AdapterRevision], change: Change) -> None:
        """Returns when every live replica routes by the change."""
        intent = Intent(uuid.uuid4().hex, deployment, self.name, tuple(dict.fromkeys(revisions)))
        await self._store.open_intent(intent)
        try:
            version = await self._published(intent, change)
        except BaseException:
            await asyncio.shield(self._store.close_intent(intent))
            raise
        await self._follow()
        # It ends: a replica either follows or its lease expires.
        while await self._store.behind(self.name, version):  # noqa: ASYNC110 - other processes change it
            await asyncio.sleep(self._poll_s)

    async def _published(self, intent: Intent, change: Change) -> int:
        """The new version, once every live replica has reported success."""
        deadline = self._clock() + self._check_s
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
                raise ReplicasTooSlowError(replicas=",".join(barrier.missing), limit_s=self._check_s)
            await asyncio.sleep(self._poll_s)

    # The engine's life

    async def _started(self, engine: Engine, base_model: BaseModel) -> None:
        """A new engine gets the newest state before the replica counts as live."""
        await self._follow()
        await self._deployments.replay(engine, base_model)
        async with self._membership:
            while not await self._store.join(self.name, self._version, lease_s=self._lease_s):
                await self._follow()
            self._is_live, self._renewed_s = True, self._clock()

    def _lost(self) -> None:
        self._loaded_adapters.forget_all()
        self._taken.clear()
        self._is_live = False
        self._woken.set()

    async def set_serving(self, is_ready: bool) -> None:
        """The engine's readiness; a replica whose lease has expired reports NOT_SERVING in any case."""
        self._is_ready = is_ready
        await self._report(is_ready and not self._is_cut_off())

    def _is_cut_off(self) -> bool:
        return self._is_live and self._clock() - self._renewed_s > self._lease_s

    # Background

    async def run(self) -> None:
        """Renews the lease, follows published changes and checks intended ones. Until cancelled; then it leaves."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._keep(self._renew, self._lease_s / RENEWALS_PER_LEASE))
                group.create_task(self._keep(self._poll, self._poll_s))
        finally:
            with contextlib.suppress(OSError, LuthierError):
                await asyncio.shield(self._store.leave(self.name))

    async def _keep(self, step: Callable[[], Awaitable[None]], pause_s: float) -> None:
        """Repeats `step`. While the database is unreachable, requests are answered by the last known state."""
        failed = False
        while True:
            try:
                await step()
                if failed:
                    log.info("the shared database is reachable again")
                failed = False
            except (OSError, LuthierError) as error:
                if not failed:
                    log.warning("the shared database is unreachable", extra={"error": type(error).__name__})
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
            began_s, was_cut_off = self._clock(), self._is_cut_off()
            while self._is_live and not await self._store.renew(self.name, lease_s=self._lease_s):
                await self._follow()  # others went on without this one: it counts again once it is up to date
                if await self._store.join(self.name, self._version, lease_s=self._lease_s):
                    log.info("joined again", extra={"replica": self.name})
                    break
            self._renewed_s = began_s
            if was_cut_off:
                await self._report(self._is_ready)

    async def _poll(self) -> None:
        chosen = await self._store.chosen_base_model()
        if chosen is not None and chosen != self._host.status.base_model:
            await self._host.follow(chosen)  # until its engine is ready, others publish without it
        pulse = await self._store.pulse(self.name)
        if pulse.version > self._version:
            await self._follow()
        self._release_closed({intent.id for intent in pulse.intents})
        for intent in pulse.intents:
            if self._is_live and self._group is not None and intent.id not in self._taken:
                self._taken.add(intent.id)
                self._held[intent.id] = intent
                for revision in intent.revisions:
                    self._loaded_adapters.hold(revision, _holder(intent.id))
                self._group.create_task(self._check(intent))

    async def _follow(self) -> None:
        """Routes by the newest state, in one step."""
        async with self._following:
            desired = await self._store.desired()
            if desired.version > self._version:
                self._deployments.adopt(desired.deployments)
                self._version = desired.version
                await self._store.follow(self.name, desired.version)

    async def _check(self, intent: Intent) -> None:
        """Loads and checks the revisions of the intent, and reports the result."""
        try:
            await self._store.report(intent, self.name, await self._refusal(intent))
        except (OSError, UnavailableError):
            self._taken.discard(intent.id)  # the next poll tries again, with another engine or a reachable database

    async def _refusal(self, intent: Intent) -> Refusal | None:
        """None once all revisions are loaded and checked. EngineUnavailableError."""
        for revision in intent.revisions:
            try:
                await self._loaded_adapters.ensure(revision)
            except StageFailedError as failed:
                if isinstance(failed.cause, EngineUnavailableError):
                    raise failed.cause from failed
                return Refusal(self.name, revision.name, failed.cause.reason, str(failed.cause))
        return None

    def _release_closed(self, open_ids: set[str]) -> None:
        """Releases the revisions of closed intents; their deployments hold what was published."""
        for closed in self._held.keys() - open_ids:
            self._taken.discard(closed)
            for revision in self._held.pop(closed).revisions:
                self._loaded_adapters.release(revision, _holder(closed))


def _holder(intent_id: str) -> str:
    """The name under which an intent holds loaded adapters. No deployment's name starts like this."""
    return f"intents/{intent_id}"
