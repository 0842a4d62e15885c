"""Deployments: what is served under which name, changed while requests run.

A deployment changes in the store first, by compare-and-set, then in the routing table, in one step without an await.
A request resolves and leases in such a step, too, so it gets exactly one loaded adapter: the old or the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.completions.leases import Models
from luthierd.inference.domain.completion import Origin
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel, Deployment, Share, chosen
from luthierd.inference.domain.engine import PUBLISH, EngineState, StageClock, StageFailedError
from luthierd.inference.domain.errors import (
    AdapterPlacesPinnedError,
    AdapterSlotsFullError,
    DeployFailedError,
    DeploymentNotFoundError,
    EngineUnavailableError,
    EtagMismatchError,
    RevisionNotHeldError,
)
from luthierd.inference.domain.parity import ParityCheck
from luthierd.inference.engine.engine import Engine, EngineAdapter
from luthierd.inference.engine.host import EngineHost
from luthierd.paging import Page, PageRequest

log = logging.getLogger(__name__)


class DeploymentStore(Protocol):
    """The desired state, durable."""

    async def deployments(self) -> list[Deployment]:
        """All deployments."""

    async def create(self, deployment: Deployment) -> None:
        """EtagMismatchError if the name exists."""

    async def replace(self, deployment: Deployment, *, change: int) -> None:
        """EtagMismatchError unless the stored one is at `change`."""

    async def delete(self, name: str, *, change: int) -> None:
        """EtagMismatchError unless the stored one is at `change`."""

    async def parity_checks(self) -> dict[str, ParityCheck]:
        """Passed parity checks, by the adapters' sha256."""

    async def delete_parity_checks(self, sha256s: Sequence[str]) -> None:
        """Forgets them."""


class Deployments:
    """Use cases of deployments, and the table that requests are routed by."""

    def __init__(
        self,
        *,
        store: DeploymentStore,
        models: Models,
        loaded_adapters: LoadedAdapters,
        host: EngineHost,
        check_adapters: Callable[[str, int], None] = lambda tenant, count: None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._store, self._models, self._loaded_adapters, self._host = store, models, loaded_adapters, host
        self._check_adapters, self._clock, self._rng = check_adapters, clock, rng or random.SystemRandom()
        self._arriving: dict[str, AdapterRevision] = {}
        self._table: dict[str, Deployment] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def read(self) -> None:
        """Reads the desired state and holds its adapters. Once, before the first request."""
        self._table = {deployment.name: deployment for deployment in await self._store.deployments()}
        newest_first = sorted(self._table.values(), key=lambda one: -one.update_time)
        checks = await self._store.parity_checks()
        for is_live in (True, False):  # the order in which they are loaded again
            for one in newest_first:
                for revision in one.distinct:
                    if (revision == one.live) is is_live:
                        self._loaded_adapters.hold(
                            revision, one.name, is_pinned=one.is_pinned, parity_check=checks.get(revision.sha256)
                        )
        held = {revision.sha256 for one in newest_first for revision in one.held}
        await self._store.delete_parity_checks([sha256 for sha256 in checks if sha256 not in held])

    async def replay(self, engine: Engine, base_model: BaseModel) -> None:
        self._loaded_adapters.start(engine, base_model)

    def on_other_base_models(self, base_model: BaseModel) -> list[str]:
        """Deployments with a live revision that an engine with `base_model` cannot serve."""
        return sorted(one.name for one in self._table.values() if one.live and one.live.base_model != base_model)

    def adopt(self, stored: Sequence[Deployment]) -> None:
        """Routes by the whole desired state published by another replica, in one step without an await.

        Deployments that are newer here stay.
        """
        names = {one.name for one in stored}
        for gone in [one for one in self._table.values() if one.name not in names]:
            del self._table[gone.name]
            self._swap(gone, None)
        for one in stored:
            self._route(one)

    def _route(self, after: Deployment) -> None:
        """Routes by `after`, unless the table has a newer one; adapters that are no longer needed drain."""
        before = self._table.get(after.name)
        if before and (before.create_time, before.change) > (after.create_time, after.change):
            self._swap(after, before)
            return
        self._table[after.name] = after
        self._swap(before, after)

    def get(self, name: str) -> Deployment:
        """DeploymentNotFoundError."""
        if name not in self._table:
            raise DeploymentNotFoundError(deployment=name)
        return self._table[name]

    def list(self, parent: str, page: PageRequest) -> Page[Deployment]:
        """A page of the deployments of `tenants/{t}`, by name."""
        found = sorted(name for name in self._table if name.startswith(f"{parent}/deployments/") and name > page.after)
        found = found[: page.limit]
        return page.page([self._table[name] for name in found], found)

    @contextlib.asynccontextmanager
    async def leased(self, name: str, *, session_id: str = "") -> AsyncIterator[tuple[Origin, EngineAdapter]]:
        """Leases what answers under a name. If it is in the engine nothing is awaited, so routing cannot change
        meanwhile; a cold adapter is loaded first.

        `session_id`: keeps a conversation on one of several revisions; empty: none.
        """
        if self._host.status.state in (EngineState.STARTING, EngineState.DRAINING):
            self._host.ready_engine()  # checked first: other replicas publish without one that has no engine
        deployment = self.get(name)
        revision = self._routed(deployment, session_id)
        self._host.check_serves(revision.base_model)
        self._host.ready_engine()
        async with self._loaded_adapters.lease_on_demand(revision) as adapter:
            yield Origin.of_revision(revision, deployment_revision=deployment.revision), adapter

    def _routed(self, deployment: Deployment, session_id: str) -> AdapterRevision:
        """The revision that answers a request."""
        revision = deployment.live
        if deployment.shares:
            sha256 = chosen(deployment.shares, deployment=deployment.name, session_id=session_id, rng=self._rng)
            revision = deployment.holding(sha256)
        if revision is None:
            raise EngineUnavailableError(
                f"{deployment.name} has nothing live yet; promote its candidate", metadata={"name": deployment.name}
            )
        return revision

    def mirror_of(self, name: str, loaded_adapter: str) -> AdapterRevision | None:
        """The revision that gets copies of what `loaded_adapter` answers under a name; None: no mirror."""
        deployment = self._table.get(name)
        mirror = deployment.holding(deployment.mirror_sha256) if deployment else None
        return mirror if mirror is not None and mirror.loaded_adapter != loaded_adapter else None

    async def deploy(self, name: str, adapter_revision: str, *, stage_only: bool = False, etag: str = "") -> Deployment:
        """Fetches, verifies, loads and checks a revision, then makes it live or, with `stage_only`, the candidate.

        DeployFailedError names the stage; the deployment is then unchanged. What is live or staged already stays.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            before = self._table.get(name)
            self._check_etag(name, before, etag)
            revision = await self._models.adapter_revision(adapter_revision)
            if before and self._is_there(before.candidate if stage_only else before.live, revision):
                return before
            now = self._clock()
            base = before or Deployment(name=name, create_time=now, update_time=now)
            after = base.stage(revision, now) if stage_only else base.route(revision, now)
            with self._counted(name, revision, is_staged=stage_only):
                published = await self._publish(before, after, load=[revision])
            loaded = self._loaded_adapters.get(revision)
            stages = loaded.parity_check.stages if loaded and loaded.parity_check else ()
            durations = {one.name: round(one.duration_s, 4) for one in stages}
            fields = {"deployment": name, "loaded_adapter": revision.loaded_adapter, "stages_s": durations}
            log.info("deployed", extra=fields)
            return published

    def _is_there(self, held: AdapterRevision | None, revision: AdapterRevision) -> bool:
        """The same weights on the same base model, loaded without an error."""
        loaded = self._loaded_adapters.get(revision)
        if held is None or loaded is None or loaded.error is not None:
            return False
        return (held.sha256, held.base_model) == (revision.sha256, revision.base_model)

    def tenants(self) -> set[str]:
        """`tenants/{t}` of those with deployments."""
        return {name.partition("/deployments/")[0] for name in self._table}

    def deployed_adapters(self, parent: str, *, without: str = "") -> set[str]:
        """Digests of the adapters of `tenants/{t}` that are live, staged, or being deployed.

        `without`: a deployment whose live adapter does not count because it is being replaced.
        """
        prefix = f"{parent}/deployments/"
        found = {arriving.sha256 for name, arriving in self._arriving.items() if name.startswith(prefix)}
        for name, one in self._table.items():
            if name.startswith(prefix):
                kept = (None if name == without else one.live, one.candidate)
                found |= {revision.sha256 for revision in kept if revision}
        return found

    @contextlib.contextmanager
    def _counted(self, name: str, revision: AdapterRevision, *, is_staged: bool) -> Iterator[None]:
        """Counts a revision as deployed while it is being deployed. AdapterQuotaError."""
        parent = name.partition("/deployments/")[0]
        there = self.deployed_adapters(parent, without="" if is_staged else name)
        self._check_adapters(parent.partition("/")[2], len(there | {revision.sha256}))
        self._arriving[name] = revision
        try:
            yield
        finally:
            del self._arriving[name]

    async def _load(self, revision: AdapterRevision) -> None:
        """Loads the revision into the engine. DeployFailedError names the stage that failed."""
        await self._host.engine_for(revision.base_model)
        try:
            await self._loaded_adapters.ensure(revision)
        except StageFailedError as failed:
            if isinstance(failed.cause, EngineUnavailableError | AdapterSlotsFullError):
                raise failed.cause from failed
            raise DeployFailedError(revision.name, failed.stage, failed.cause) from failed

    async def prefetch(self, name: str) -> Deployment:
        """Loads the revisions that requests under a name reach, so that none of them waits for a load."""
        deployment = self.get(name)
        for revision in deployment.routed:
            await self._load(revision)
        return deployment

    async def set_traffic(
        self, name: str, weights: Mapping[str, int], *, mirror_revision: str = "", etag: str = ""
    ) -> Deployment:
        """Splits requests over held revisions, by name; without weights all go to the live one.

        RevisionNotHeldError, EtagMismatchError; DeployFailedError if one cannot be loaded.
        """
        async with self._changing(name, etag) as before:
            held = {revision.name: revision.sha256 for revision in before.held}
            for wanted in (*weights, mirror_revision):
                if wanted and wanted not in held:
                    raise RevisionNotHeldError(deployment=name, revision=wanted)
            shares = tuple(Share(held[revision], weight) for revision, weight in weights.items())
            after = before.split(shares, held.get(mirror_revision, ""), self._clock())
            return await self._publish(before, after, load=after.routed)

    async def pin(self, name: str, *, is_pinned: bool, etag: str = "") -> Deployment:
        """Keeps all held revisions in memory, or no longer. AdapterPlacesPinnedError, EtagMismatchError."""
        async with self._changing(name, etag) as before:
            if before.is_pinned == is_pinned:
                return before
            after = before.pin(self._clock(), is_pinned=is_pinned)
            self._check_pins(after)  # before the loads
            return await self._publish(before, after, load=after.distinct if is_pinned else ())

    async def promote(self, name: str, *, etag: str = "") -> Deployment:
        """Makes the candidate live. NoCandidateError, EtagMismatchError."""
        async with self._changing(name, etag) as before:
            after = before.promote(self._clock())
            return await self._publish(before, after, load=filter(None, [after.live]))

    async def roll_back(self, name: str, *, etag: str = "") -> Deployment:
        """Makes the previous revision live again. NoPreviousError, EtagMismatchError."""
        async with self._changing(name, etag) as before:
            after = before.roll_back(self._clock())
            return await self._publish(before, after, load=filter(None, [after.live]))

    async def delete(self, name: str, *, etag: str = "") -> None:
        """Removes a deployment; requests in flight finish on their loaded adapter."""
        async with self._changing(name, etag) as before:
            await self._store.delete(name, change=before.change)
            self._table.pop(name, None)
            self._swap(before, None)

    @contextlib.asynccontextmanager
    async def _changing(self, name: str, etag: str) -> AsyncIterator[Deployment]:
        """The deployment, which nothing else changes on this server. DeploymentNotFoundError, EtagMismatchError."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            before = self.get(name)
            self._check_etag(name, before, etag)
            yield before

    async def _publish(
        self, before: Deployment | None, after: Deployment, *, load: Iterable[AdapterRevision]
    ) -> Deployment:
        """Loads what `after` needs (it may have made room for others), stores it and routes by it."""
        for revision in load:
            await self._load(revision)
        self._check_pins(after)
        clock = StageClock()
        clock.reach(PUBLISH)
        self._hold(after)
        try:
            if before is None:
                await self._store.create(after)
            else:
                await self._store.replace(after, change=before.change)
        except BaseException:
            self._swap(after, before)
            raise
        self._route(after)
        (published,) = clock.end()
        for revision in set(after.held) - set(before.held if before else ()):
            self._loaded_adapters.note_stage(revision, published)
        return after

    def _hold(self, deployment: Deployment) -> None:
        for revision in deployment.distinct:
            self._loaded_adapters.hold(revision, deployment.name, is_pinned=deployment.is_pinned)

    def _swap(self, held: Deployment | None, kept: Deployment | None) -> None:
        """Releases what only `held` needs, and holds what `kept` needs."""
        needed = {revision.sha256 for revision in kept.held} if kept else set()
        if held is not None:
            for revision in held.distinct:
                if revision.sha256 not in needed:
                    self._loaded_adapters.release(revision, held.name)
        if kept is not None:
            self._hold(kept)

    def _check_pins(self, after: Deployment) -> None:
        """AdapterPlacesPinnedError if `after` leaves no place for adapters that are not pinned."""
        if not after.is_pinned:
            return
        table = {**self._table, after.name: after}
        pinned = {revision.sha256 for one in table.values() if one.is_pinned for revision in one.held}
        if len(pinned) > self._loaded_adapters.max_pinned:
            raise AdapterPlacesPinnedError(
                deployment=after.name, wanted=len(pinned), limit=self._loaded_adapters.max_pinned
            )

    @staticmethod
    def _check_etag(name: str, deployment: Deployment | None, etag: str) -> None:
        if etag and (deployment is None or deployment.etag != etag):
            raise EtagMismatchError(name=name)
