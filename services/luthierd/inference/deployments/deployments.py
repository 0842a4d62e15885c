"""Deployments: what is served under which name, changed while requests run.

A deployment changes in the store first, by compare-and-set, then in the routing table, in one step that awaits nothing.
A request resolves and leases in such a step, too, so it gets exactly one loaded_adapter: the old one or the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Protocol

from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.domain.completion import Origin
from luthierd.inference.domain.deployment import AdapterRevision, Deployment, Share, chosen
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
from luthierd.inference.domain.parity import Proof
from luthierd.inference.engine.engine import Engine, EngineAdapter
from luthierd.inference.engine.host import EngineHost
from luthierd.paging import Page, PageRequest

log = logging.getLogger(__name__)


class Catalog(Protocol):
    """Asks the trainer what a name stands for."""

    async def adapter_revision(self, name: str) -> AdapterRevision:
        """NotFoundError if the tenant has no such revision; UnavailableError if the trainer does not answer."""


class DeploymentStore(Protocol):
    """The desired state, durable."""

    async def deployments(self) -> list[Deployment]:
        """All of them."""

    async def create(self, deployment: Deployment) -> None:
        """EtagMismatchError if there is one of that name."""

    async def replace(self, deployment: Deployment, *, change: int) -> None:
        """EtagMismatchError unless the stored one is at `change`."""

    async def delete(self, name: str, *, change: int) -> None:
        """EtagMismatchError unless the stored one is at `change`."""

    async def proofs(self) -> dict[str, Proof]:
        """What was proved, by the adapters' sha256."""

    async def delete_proofs(self, sha256s: Sequence[str]) -> None:
        """Forgets them."""


class Deployments:
    """Use cases of deployments, and the table that requests are routed by."""

    def __init__(
        self,
        *,
        store: DeploymentStore,
        catalog: Catalog,
        loaded_adapters: LoadedAdapters,
        host: EngineHost,
        check_adapters: Callable[[str, int], None] = lambda tenant, count: None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._store, self._catalog, self._loaded_adapters, self._host = store, catalog, loaded_adapters, host
        self._check_adapters, self._clock, self._rng = check_adapters, clock, rng or random.SystemRandom()
        self._arriving: dict[str, AdapterRevision] = {}
        self._table: dict[str, Deployment] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def read(self) -> None:
        """Reads the desired state and registers what it holds. Once, before the first request."""
        self._table = {deployment.name: deployment for deployment in await self._store.deployments()}
        newest_first = sorted(self._table.values(), key=lambda one: -one.update_time)
        proofs = await self._store.proofs()
        for is_live in (True, False):  # in this order they are loaded again
            for one in newest_first:
                for revision in _distinct(one):
                    if (revision == one.live) is is_live:
                        proof = proofs.get(revision.sha256)
                        self._loaded_adapters.hold(revision, one.name, is_pinned=one.is_pinned, proof=proof)
        held = {revision.sha256 for one in newest_first for revision in one.held}
        await self._store.delete_proofs([sha256 for sha256 in proofs if sha256 not in held])

    async def replay(self, engine: Engine) -> None:
        """A fresh engine is there for the desired state."""
        self._loaded_adapters.start(engine)

    def adopt(self, stored: Sequence[Deployment]) -> None:
        """Routes as `stored`, all of the desired state, says: in one step that awaits nothing. For what another replica
        published; what this one knows to be newer stays.
        """
        names = {one.name for one in stored}
        for gone in [one for one in self._table.values() if one.name not in names]:
            del self._table[gone.name]
            self._let_go(gone, None)
        for one in stored:
            self._route(one)

    def _route(self, after: Deployment) -> None:
        """Makes `after` what requests go by, unless the table has a newer one; what is not needed any more drains."""
        before = self._table.get(after.name)
        if before and (before.create_time, before.change) > (after.create_time, after.change):
            self._let_go(after, before)
            return
        self._table[after.name] = after
        for revision in _distinct(after):
            self._loaded_adapters.hold(revision, after.name, is_pinned=after.is_pinned)
        self._let_go(before, after)

    def get(self, name: str) -> Deployment:
        """DeploymentNotFoundError."""
        if name not in self._table:
            raise DeploymentNotFoundError(name)
        return self._table[name]

    def list(self, parent: str, page: PageRequest) -> Page[Deployment]:
        """A page of the deployments of `tenants/{t}`, by name."""
        found = sorted(name for name in self._table if name.startswith(f"{parent}/deployments/") and name > page.after)
        found = found[: page.limit]
        return page.page([self._table[name] for name in found], found)

    @contextlib.asynccontextmanager
    async def leased(self, name: str, *, session_id: str = "") -> AsyncIterator[tuple[Origin, EngineAdapter]]:
        """What is live under a name, leased. If it is in the engine nothing is awaited, so no change of routing falls
        into it; a cold one is loaded first.

        `session_id`: what keeps a conversation on one loaded adapter where there are several; empty: none.
        """
        if self._host.status.state is EngineState.STARTING:
            self._host.ready_engine()  # first: other replicas publish without one that has no engine
        deployment = self.get(name)
        revision = self._routed(deployment, session_id)
        origin = Origin(
            loaded_adapter=revision.loaded_adapter,
            deployment_revision=deployment.revision,
            adapter_revision=revision.name,
            base_model=revision.base_model.name,
        )
        self._host.ready_engine()
        async with self._loaded_adapters.lease_on_demand(revision) as adapter:
            yield origin, adapter

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
        """The revision that answers a copy of what `loaded adapter` answers now under a name; None: nobody."""
        deployment = self._table.get(name)
        mirror = deployment.holding(deployment.mirror_sha256) if deployment else None
        return mirror if mirror is not None and mirror.loaded_adapter != loaded_adapter else None

    async def deploy(self, name: str, adapter_revision: str, *, stage_only: bool = False, etag: str = "") -> Deployment:
        """Fetches, verifies, loads and probes a revision, then makes it live or, with `stage_only`, the candidate.

        DeployFailedError names the stage; the deployment is then as it was. What is live or staged already stays.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            before = self._table.get(name)
            self._check_etag(name, before, etag)
            revision = await self._catalog.adapter_revision(adapter_revision)
            there = before and (before.candidate if stage_only else before.live)
            loaded_adapter = self._loaded_adapters.get(revision)
            if (
                before
                and there
                and (there.sha256, there.base_model) == (revision.sha256, revision.base_model)
                and loaded_adapter is not None
                and loaded_adapter.error is None
            ):
                return before
            now = self._clock()
            base = before or Deployment(name=name, create_time=now, update_time=now)
            after = base.stage(revision, now) if stage_only else base.route(revision, now)
            with self._counted(name, revision, is_staged=stage_only):
                await self._load(revision)
                published = await self._publish(before, after)
            self._log_stages(name, revision)
            return published

    def _log_stages(self, name: str, revision: AdapterRevision) -> None:
        loaded_adapter = self._loaded_adapters.get(revision)
        durations = {one.name: round(one.duration_s, 4) for one in loaded_adapter.stages} if loaded_adapter else {}
        log.info(
            "deployed", extra={"deployment": name, "loaded_adapter": revision.loaded_adapter, "stages_s": durations}
        )

    def tenants(self) -> set[str]:
        """`tenants/{t}` of those that have deployments."""
        return {name.partition("/deployments/")[0] for name in self._table}

    def deployed_adapters(self, parent: str, *, without: str = "") -> set[str]:
        """Digests of the adapters that are live, staged or on their way there in `tenants/{t}`'s deployments.

        `without`: a deployment whose live one does not count, because it is being replaced.
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
        """Counts a revision as deployed while it gets there. AdapterQuotaError if it would be one too many."""
        parent = name.partition("/deployments/")[0]
        there = self.deployed_adapters(parent, without="" if is_staged else name)
        self._check_adapters(parent.partition("/")[2], len(there | {revision.sha256}))
        self._arriving[name] = revision
        try:
            yield
        finally:
            del self._arriving[name]

    async def _load(self, revision: AdapterRevision) -> None:
        """Gets the revision into the engine. DeployFailedError names the stage that it did not pass."""
        await self._host.engine_for(revision.base_model)
        try:
            await self._loaded_adapters.ensure(revision)
        except StageFailedError as failed:
            if isinstance(failed.cause, EngineUnavailableError | AdapterSlotsFullError):
                raise failed.cause from failed
            raise DeployFailedError(revision.name, failed.stage, failed.cause) from failed

    async def prefetch(self, name: str) -> Deployment:
        """Loads what requests under a name go to, so that none of them waits for it."""
        deployment = self.get(name)
        for revision in deployment.routed:
            await self._load(revision)
        return deployment

    async def set_traffic(
        self, name: str, weights: Mapping[str, int], *, mirror_revision: str = "", etag: str = ""
    ) -> Deployment:
        """Splits requests over held adapter revisions, by name; no weights: all go to the live one.

        RevisionNotHeldError, EtagMismatchError; DeployFailedError if one cannot be loaded. Nothing is routed to what is
        not proved.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            before = self.get(name)
            self._check_etag(name, before, etag)
            held = {revision.name: revision.sha256 for revision in before.held}
            for wanted in (*weights, mirror_revision):
                if wanted and wanted not in held:
                    raise RevisionNotHeldError(name, wanted)
            shares = tuple(Share(held[revision], weight) for revision, weight in weights.items())
            after = before.split(shares, held.get(mirror_revision, ""), self._clock())
            for revision in after.routed:
                await self._load(revision)
            return await self._publish(before, after)

    async def pin(self, name: str, *, is_pinned: bool, etag: str = "") -> Deployment:
        """Keeps all that the deployment holds in memory, or no longer. AdapterPlacesPinnedError, EtagMismatchError."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            before = self.get(name)
            self._check_etag(name, before, etag)
            if before.is_pinned == is_pinned:
                return before
            after = before.pin(self._clock(), is_pinned=is_pinned)
            self._check_pins(after)
            if is_pinned:
                for revision in _distinct(after):
                    await self._load(revision)
            return await self._publish(before, after)

    async def promote(self, name: str, *, etag: str = "") -> Deployment:
        """Makes the candidate live. NoCandidateError, EtagMismatchError."""
        return await self._reroute(name, etag, lambda before: before.promote(self._clock()))

    async def roll_back(self, name: str, *, etag: str = "") -> Deployment:
        """Makes the previous revision live again. NoPreviousError, EtagMismatchError."""
        return await self._reroute(name, etag, lambda before: before.roll_back(self._clock()))

    async def _reroute(self, name: str, etag: str, change: Callable[[Deployment], Deployment]) -> Deployment:
        async with self._locks.setdefault(name, asyncio.Lock()):
            before = self.get(name)
            self._check_etag(name, before, etag)
            after = change(before)
            if after.live is not None:
                await self._load(after.live)  # it is loaded already, unless it made room for others
            return await self._publish(before, after)

    async def delete(self, name: str, *, etag: str = "") -> None:
        """Removes a deployment; requests in flight finish on their loaded adapter."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            before = self.get(name)
            self._check_etag(name, before, etag)
            await self._store.delete(name, change=before.change)
            self._table.pop(name, None)
            for revision in _distinct(before):
                self._loaded_adapters.release(revision, name)

    async def _publish(self, before: Deployment | None, after: Deployment) -> Deployment:
        """Makes `after` what holds; what it no longer needs drains. Without success, what was held for it is let go."""
        self._check_pins(after)
        clock = StageClock()
        clock.reach(PUBLISH)
        for revision in _distinct(after):
            self._loaded_adapters.hold(revision, after.name, is_pinned=after.is_pinned)
        try:
            if before is None:
                await self._store.create(after)
            else:
                await self._store.replace(after, change=before.change)
        except BaseException:
            self._let_go(after, before)
            raise
        self._route(after)
        (published,) = clock.end()
        for revision in set(after.held) - set(before.held if before else ()):
            self._loaded_adapters.note_stage(revision, published)
        return after

    def _let_go(self, held: Deployment | None, kept: Deployment | None) -> None:
        """Of what `held` needed, the rest than `kept` needs; and `kept` is pinned as it says."""
        needed = {revision.sha256 for revision in kept.held} if kept else set()
        for revision in _distinct(held):
            if held is not None and revision.sha256 not in needed:
                self._loaded_adapters.release(revision, held.name)
        for revision in _distinct(kept):
            if kept is not None:
                self._loaded_adapters.hold(revision, kept.name, is_pinned=kept.is_pinned)

    def _check_pins(self, after: Deployment) -> None:
        """AdapterPlacesPinnedError if `after` leaves no place for what is not pinned."""
        if not after.is_pinned:
            return
        table = {**self._table, after.name: after}
        pinned = {revision.sha256 for one in table.values() if one.is_pinned for revision in one.held}
        if len(pinned) > self._loaded_adapters.max_pinned:
            raise AdapterPlacesPinnedError(after.name, wanted=len(pinned), limit=self._loaded_adapters.max_pinned)

    @staticmethod
    def _check_etag(name: str, deployment: Deployment | None, etag: str) -> None:
        if etag and (deployment is None or deployment.etag != etag):
            raise EtagMismatchError(name)


def _distinct(deployment: Deployment | None) -> list[AdapterRevision]:
    return list({revision.sha256: revision for revision in deployment.held}.values()) if deployment else []
