"""One adapter revision on its way through the engine, and what brings it there."""

from __future__ import annotations

import asyncio
import pathlib
from dataclasses import dataclass, field
from typing import Protocol

from luthierd.errors import LuthierError
from luthierd.inference.adapters.residency import Worth
from luthierd.inference.domain.deployment import AdapterRevision
from luthierd.inference.domain.engine import LoadedAdapterState, Stage
from luthierd.inference.domain.parity import ParityCertificate, Proof
from luthierd.inference.engine.engine import Engine, EngineAdapter


class AdapterFiles(Protocol):
    """Where adapters' files come from."""

    async def fetch(self, revision: AdapterRevision) -> pathlib.Path:
        """A local folder with the revision's files, each as its digest says. Errors name what is wrong."""

    async def verify(self, revision: AdapterRevision, folder: pathlib.Path, *, max_rank: int) -> None:
        """Errors name why the engine must not read them."""

    async def check_present(self, revision: AdapterRevision) -> None:
        """An error if any file is gone."""


class ProofStore(Protocol):
    """Remembers what was proved."""

    async def put_proof(self, sha256: str, proof: Proof) -> None:
        """Keeps it, in place of an older one."""


class Prove(Protocol):
    """Proves that a loaded adapter does what it should."""

    async def __call__(self, engine: Engine, adapter: EngineAdapter) -> ParityCertificate:
        """AdapterHasNoEffectError, AdapterDeviatesError."""


@dataclass(eq=False)
class LoadedAdapter:
    """One adapter revision. `adapter` is set while it is in the engine; `held_by` names the deployments that want it.

    `is_leaving`: it was chosen to make room and takes no new leases. `cost_s`: what its last load took.
    """

    revision: AdapterRevision
    state: LoadedAdapterState = LoadedAdapterState.COLD
    adapter: EngineAdapter | None = None
    error: LuthierError | None = None
    failed_s: float = 0.0
    held_by: set[str] = field(default_factory=set)
    pinned_by: set[str] = field(default_factory=set)
    lease_count: int = 0
    waiting_count: int = 0
    is_leaving: bool = False
    proof: Proof | None = None
    cost_s: float = 0.0
    worth: Worth = field(default_factory=Worth)
    loading: asyncio.Task[None] | None = None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """How it got here; empty if it was not proved yet."""
        return self.proof.stages if self.proof else ()

    @property
    def can_be_leased(self) -> bool:
        """Its weights are there, and stay."""
        return self.state is LoadedAdapterState.READY and not self.is_leaving

    @property
    def may_leave(self) -> bool:
        """It is in the engine, and nobody insists that it stays. It may still be leased."""
        settled = self.state in (LoadedAdapterState.READY, LoadedAdapterState.DRAINING)
        return settled and not self.pinned_by and self.waiting_count == 0
