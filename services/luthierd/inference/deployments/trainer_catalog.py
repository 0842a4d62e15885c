"""The models known to the trainer, read through the SDK with a short-lived token of the tenant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

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
"""Answers kept: revisions and ready models never change."""

T = TypeVar("T")


class TrainerCatalog:
    """See `leases.Models`."""

    def __init__(self, client: AsyncClient, issuer: TokenIssuer) -> None:
        self._client, self._issuer = client, issuer
        self._revisions: dict[str, AdapterRevision] = {}
        self._models: dict[str, BaseModel] = {}

    async def adapter_revision(self, name: str) -> AdapterRevision:
        """RevisionNotFoundError, TrainerUnavailableError."""
        tenant, *_ = ADAPTER_REVISION.parse(name, field="adapter_revision")
        if name not in self._revisions:
            found = await _read(
                self._as(tenant).adapters.get_revision, name, RevisionNotFoundError(adapter_revision=name)
            )
            base_model = BaseModel(found.base_model, found.base_model_sha256)
            _remember(self._revisions, name, AdapterRevision(found.name, found.sha256, base_model))
        return self._revisions[name]

    async def base_model(self, name: str) -> BaseModel:
        """BaseModelNotFoundError, BaseModelNotReadyError, TrainerUnavailableError."""
        if name not in self._models:
            found = await _read(self._as("luthier").base_models.get, name, BaseModelNotFoundError(base_model=name))
            if state_of(found) != "READY":
                raise BaseModelNotReadyError(base_model=name)
            _remember(self._models, name, BaseModel(found.name, found.sha256))
        return self._models[name]

    def _as(self, tenant: str) -> AsyncClient:
        return acting_for(tenant, client=self._client, issuer=self._issuer, service="inference", scopes=SCOPES)


async def _read(call: Callable[[str], Awaitable[Any]], name: str, missing: LuthierError) -> Any:
    try:
        return await call(name)
    except client_errors.NotFoundError:
        raise missing from None
    except client_errors.RpcError as error:
        raise TrainerUnavailableError(code=error.code, detail=error.message) from error


def _remember(known: dict[str, T], name: str, value: T) -> None:
    if len(known) >= MAX_REMEMBERED:
        known.pop(next(iter(known)))
    known[name] = value
