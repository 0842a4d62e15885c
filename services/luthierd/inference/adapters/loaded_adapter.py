"""One adapter revision on its way through the engine, and what brings it there."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from luthierd.errors import LuthierError
from luthierd.inference.adapters.residency import Worth
from luthierd.inference.domain.deployment import AdapterRevision
from luthierd.inference.domain.engine import LoadedAdapterState
from luthierd.inference.domain.parity import ParityCertificate, ParityCheck
from luthierd.inference.engine.engine import Engine, EngineAdapter

CheckParity = Callable[[Engine, EngineAdapter], Awaitable[ParityCertificate]]
"""AdapterHasNoEffectError, AdapterDeviatesError."""


class AdapterFiles(Protocol):
    """Where adapters' files come from. Errors name what is wrong with them."""

    async def fetch(self, revision: AdapterRevision) -> pathlib.Path:
        """A local folder with the revision's files, verified against their digests."""

    async def verify(self, revision: AdapterRevision, folder: pathlib.Path, *, max_rank: int) -> None:
        """Raises if the engine must not read the files."""

    async def check_present(self, revision: AdapterRevision) -> None:
        """Raises if any file is gone."""


class ParityStore(Protocol):
    """Remembers passed parity checks."""

    async def put_parity_check(self, sha256: str, check: ParityCheck) -> None:
        """Replaces an earlier one."""


@dataclass(eq=False, kw_only=True)
class LoadedAdapter:
    """`adapter` is set while it is in the engine; `held_by` and `pinned_by` name deployments.

    `is_leaving`: it was chosen to make room and takes no new leases. `cost_s`: duration of its last load.
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
    parity_check: ParityCheck | None = None
    cost_s: float = 0.0
    worth: Worth = field(default_factory=Worth)
    loading: asyncio.Task[None] | None = None

    @property
    def can_be_leased(self) -> bool:
        """Its weights are in the engine, and stay there."""
        return self.state is LoadedAdapterState.READY and not self.is_leaving

    @property
    def may_leave(self) -> bool:
        """It is in the engine, and neither pinned nor waited for. It may still be leased."""
        settled = self.state in (LoadedAdapterState.READY, LoadedAdapterState.DRAINING)
        return settled and not self.pinned_by and self.waiting_count == 0

    @property
    def is_wanted(self) -> bool:
        """It is held, in the engine, or being loaded."""
        return bool(self.held_by) or self.adapter is not None or self.loading is not None
