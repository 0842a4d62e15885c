"""What the trainer knows, asked through the SDK with a short-lived token of the tenant."""

from __future__ import annotations

from typing import Protocol

from luthier import AsyncClient
from luthier import errors as client_errors

from luthierd import errors
from luthierd.inference.api import deployment_wire as wire
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel
from luthierd.names import ADAPTER_REVISION

TOKEN_TTL_S = 60.0
SUBJECT = "service:inference"
SCOPE = "trainer.read"

MAX_REMEMBERED = 1024
"""Answers kept: revisions and ready models never change."""


class RevisionNotFoundError(errors.NotFoundError):
    """The tenant has no such adapter revision."""

    reason = "ADAPTER_REVISION_NOT_FOUND"


class BaseModelNotFoundError(errors.NotFoundError):
    """No such base model."""

    reason = "BASE_MODEL_NOT_FOUND"


class BaseModelNotReadyError(errors.FailedPreconditionError):
    """The base model is being imported, or its import failed."""

    reason = "BASE_MODEL_NOT_READY"


class TrainerUnavailableError(errors.UnavailableError):
    """The trainer does not answer."""

    reason = "TRAINER_UNAVAILABLE"


class Issuer(Protocol):
    """Signs tokens."""

    def issue(self, *, tenant: str, subject: str, scopes: tuple[str, ...], ttl_s: float) -> str:
        """A token of a tenant."""


class TrainerCatalog:
    """See `answers.Models`."""

    def __init__(self, client: AsyncClient, issuer: Issuer) -> None:
        self._client, self._issuer = client, issuer
        self._revisions: dict[str, AdapterRevision] = {}
        self._models: dict[str, BaseModel] = {}

    async def adapter_revision(self, name: str) -> AdapterRevision:
        """RevisionNotFoundError, TrainerUnavailableError."""
        tenant, *_ = ADAPTER_REVISION.parse(name, field="adapter_revision")
        if name not in self._revisions:
            try:
                found = await self._as(tenant).adapters.get_revision(name)
            except client_errors.NotFoundError:
                raise RevisionNotFoundError(
                    f"there is no adapter revision {name}; `luthier jobs list` shows what the training made",
                    metadata={"adapter_revision": name},
                ) from None
            except client_errors.RpcError as error:
                raise _unavailable(error) from error
            base_model = BaseModel(found.base_model, found.base_model_sha256)
            _remember(self._revisions, name, AdapterRevision(found.name, found.sha256, base_model))
        return self._revisions[name]

    async def base_model(self, name: str) -> BaseModel:
        """BaseModelNotFoundError, BaseModelNotReadyError, TrainerUnavailableError."""
        if name not in self._models:
            try:
                found = await self._as("luthier").base_models.get(name)
            except client_errors.NotFoundError:
                raise BaseModelNotFoundError(
                    f"there is no base model {name}; `luthier model import` adds one", metadata={"base_model": name}
                ) from None
            except client_errors.RpcError as error:
                raise _unavailable(error) from error
            if not wire.is_ready(found):
                raise BaseModelNotReadyError(
                    f"{name} is not imported completely; watch it with `luthier model list`",
                    metadata={"base_model": name},
                )
            _remember(self._models, name, BaseModel(found.name, found.sha256))
        return self._models[name]

    def _as(self, tenant: str) -> AsyncClient:
        token = self._issuer.issue(tenant=tenant, subject=SUBJECT, scopes=(SCOPE,), ttl_s=TOKEN_TTL_S)
        return self._client.with_token(token)


def _remember(known: dict, name: str, value: object) -> None:  # type: ignore[type-arg]
    if len(known) >= MAX_REMEMBERED:
        known.pop(next(iter(known)))
    known[name] = value


def _unavailable(error: client_errors.RpcError) -> TrainerUnavailableError:
    return TrainerUnavailableError(
        f"the trainer did not answer ({error.code}: {error.message}); `luthier status` shows whether it runs",
        metadata={"code": error.code},
        retry_after_s=2.0,
    )
