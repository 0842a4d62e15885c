"""Deployments: what is served under which name, changed while requests run.

A deployment changes in the store first, by compare-and-set, then in the routing table, in one step that awaits nothing.
A request resolves and leases in such a step, too, so it gets exactly one generation: the old one or the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

from luthierd.errors import LuthierError
from luthierd.inference.domain import AdapterRevision, Deployment, Origin
from luthierd.inference.engine_host import Engine, EngineAdapter, EngineHost
from luthierd.inference.errors import (
    AdapterSlotsFullError,
    DeployFailedError,
    DeploymentNotFoundError,
    EngineUnavailableError,
    EtagMismatchError,
    OtherBaseModelError,
)
from luthierd.inference.generations import Generations
from luthierd.rpc.paging import Page, PageRequest


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


class Deployments:
    """Use cases of deployments, and the table that requests are routed by."""

    def __init__(
        self, *, store: DeploymentStore, catalog: Catalog, generations: Generations, host: EngineHost,
        check_adapters: Callable[[str, int], None] = lambda tenant, count: None, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._store, self._catalog, self._generations, self._host = store, catalog, generations, host
        self._check_adapters, self._clock = check_adapters, clock
        self._arriving: dict[str, AdapterRevision] = {}
        self._table: dict[str, Deployment] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def read(self) -> None:
        """Reads the desired state. Once, before the first request."""
        self._table = {deployment.name: deployment for deployment in await self._store.deployments()}

    async def replay(self, engine: Engine) -> None:
        """Loads the desired state into a fresh engine."""
        await self._generations.start(engine, {name: list(one.held) for name, one in self._table.items()})

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

    @contextlib.contextmanager
    def leased(self, name: str, *, session_id: str = "") -> Iterator[tuple[Origin, EngineAdapter]]:
        """What is live under a name, leased. Awaits nothing: no change of routing falls into it.

        `session_id`: what keeps a conversation on one generation where there are several; empty: none.
        """
        deployment = self.get(name)
        live = deployment.live
        if live is None:
            raise EngineUnavailableError(f"{name} has nothing live yet; promote its candidate", metadata={"name": name})
        origin = Origin(
            generation=live.generation, deployment_revision=deployment.revision,
            adapter_revision=live.name, base_model=live.base_model.name,
        )  # fmt: skip
        self._host.ready_engine()
        with self._generations.lease(live) as adapter:
            yield origin, adapter

    async def deploy(self, name: str, adapter_revision: str, *, stage_only: bool = False, etag: str = "") -> Deployment:
        """Fetches, verifies, loads and probes a revision, then makes it live or, with `stage_only`, the candidate.

        DeployFailedError names the stage; the deployment is then as it was. What is live or staged already stays.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            before = self._table.get(name)
            self._check_etag(name, before, etag)
            revision = await self._catalog.adapter_revision(adapter_revision)
            there = before and (before.candidate if stage_only else before.live)
            generation = self._generations.get(revision)
            if (
                before
                and there
                and there.sha256 == revision.sha256
                and generation is not None
                and generation.error is None
            ):
                return before
            with self._counted(name, revision, is_staged=stage_only):
                await self._load(revision, name)
                now = self._clock()
                base = before or Deployment(name=name, create_time=now, update_time=now)
                after = base.stage(revision, now) if stage_only else base.route(revision, now)
                return await self._publish(before, after)

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

    async def _load(self, revision: AdapterRevision, name: str) -> None:
        """Gets the revision into the engine, and holds it there for the deployment."""
        stage = "engine"

        def report(reached: str) -> None:
            nonlocal stage
            stage = reached

        try:
            await self._host.engine_for(revision.base_model)
            await self._generations.ensure(revision, report)
        except (EngineUnavailableError, AdapterSlotsFullError, OtherBaseModelError):
            raise
        except LuthierError as error:
            raise DeployFailedError(revision.name, stage, error) from error
        self._generations.hold(revision, name)

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
                await self._load(after.live, name)  # it is loaded already, unless it failed at a restart
            return await self._publish(before, after)

    async def delete(self, name: str, *, etag: str = "") -> None:
        """Removes a deployment; requests in flight finish on their generation."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            before = self.get(name)
            self._check_etag(name, before, etag)
            await self._store.delete(name, change=before.change)
            del self._table[name]
            for revision in _distinct(before):
                self._generations.release(revision, name)

    async def _publish(self, before: Deployment | None, after: Deployment) -> Deployment:
        """Makes `after` what holds; what it no longer needs is released. Without success, what was loaded for it is."""
        try:
            if before is None:
                await self._store.create(after)
            else:
                await self._store.replace(after, change=before.change)
        except BaseException:
            self._release_dropped(after, before)
            raise
        self._table[after.name] = after
        self._release_dropped(before, after)
        return after

    def _release_dropped(self, held: Deployment | None, kept: Deployment | None) -> None:
        needed = {revision.sha256 for revision in kept.held} if kept else set()
        for revision in _distinct(held):
            if held is not None and revision.sha256 not in needed:
                self._generations.release(revision, held.name)

    @staticmethod
    def _check_etag(name: str, deployment: Deployment | None, etag: str) -> None:
        if etag and (deployment is None or deployment.etag != etag):
            raise EtagMismatchError(name)


def _distinct(deployment: Deployment | None) -> list[AdapterRevision]:
    return list({revision.sha256: revision for revision in deployment.held}.values()) if deployment else []
