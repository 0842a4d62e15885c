"""The models known to the trainer, read through the SDK with a short-lived token of the tenant."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from luthier import AsyncClient
from luthier import errors as client_errors
from luthier.display import state_of

from luthierd.errors import LuthierError
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel
from luthierd.inference.domain.errors import (
    BaseModelNotFoundError,
    BaseModelNotReadyError,
    RevisionNotFoundError,
    TrainerUnavailableError,
)
from luthierd.names import ADAPTER_REVISION
from luthierd.rpc.auth import TokenIssuer
from luthierd.rpc.peers import acting_for

SCOPES = ("trainer.read",)
MAX_REMEMBERED = 1024
"""Answers kept."""
FRESH_S = 60.0
"""Revisions and ready models never change, but they can be deleted."""

T = TypeVar("T")


class TrainerCatalog:
    """See `leases.Models`."""

    def __init__(
        self, client: AsyncClient, issuer: TokenIssuer, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client, self._issuer = client, issuer
        self._revisions: Memory[AdapterRevision] = Memory(clock)
        self._models: Memory[BaseModel] = Memory(clock)

    async def adapter_revision(self, name: str) -> AdapterRevision:
        """RevisionNotFoundError, TrainerUnavailableError."""
        tenant, *_ = ADAPTER_REVISION.parse(name, field="adapter_revision")

        async def ask() -> AdapterRevision:
            missing = RevisionNotFoundError(adapter_revision=name)
            found = await _read(self._as(tenant).adapters.get_revision, name, missing)
            return AdapterRevision(found.name, found.sha256, BaseModel(found.base_model, found.base_model_sha256))

        return await self._revisions.recall(name, ask)

    async def base_model(self, name: str) -> BaseModel:
        """BaseModelNotFoundError, BaseModelNotReadyError, TrainerUnavailableError."""

        async def ask() -> BaseModel:
            found = await _read(self._as("luthier").base_models.get, name, BaseModelNotFoundError(base_model=name))
            if state_of(found) != "READY":
                raise BaseModelNotReadyError(base_model=name)
            return BaseModel(found.name, found.sha256)

        return await self._models.recall(name, ask)

    def _as(self, tenant: str) -> AsyncClient:
        return acting_for(tenant, client=self._client, issuer=self._issuer, service="inference", scopes=SCOPES)


async def _read(call: Callable[[str], Awaitable[Any]], name: str, missing: LuthierError) -> Any:
    try:
        return await call(name)
    except client_errors.NotFoundError:
        raise missing from None
    except client_errors.RpcError as error:
        raise TrainerUnavailableError(code=error.code, detail=error.message) from error


class Memory(Generic[T]):
    """The last answers by name."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, T]] = {}

    async def recall(self, name: str, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer, asked for again after `FRESH_S`; an older one while the trainer is away."""
        asked_time, known = self._known.get(name, (-math.inf, None))
        if known is not None and self._clock() - asked_time < FRESH_S:
            return known
        try:
            answer = await ask()
        except TrainerUnavailableError:
            if known is None:
                raise
            return known
        except LuthierError:
            self._known.pop(name, None)
            raise
        if name not in self._known and len(self._known) >= MAX_REMEMBERED:
            self._known.pop(next(iter(self._known)))
        self._known[name] = (self._clock(), answer)
        return answer
