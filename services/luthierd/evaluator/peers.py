"""The other services, through the SDK and in the name of a tenant: curation, trainer and inference."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import luthier.errors as sdk
from luthier.client import AsyncClient
from luthier.endpoints import Endpoints, TlsOptions

from luthierd import errors
from luthierd.config import ServerConfig
from luthierd.evaluator import wire
from luthierd.evaluator.asking import Reply
from luthierd.evaluator.domain import AdapterRevision, Arm, DatasetRevision, EvaluationInputs, Message
from luthierd.rpc.auth import TokenIssuer

T = TypeVar("T")

SUBJECT = "service:evaluator"
SCOPES = ("trainer.read", "curation.read", "inference.generate", "inference.evaluate")
# A token is made for each call, which takes less than a millisecond, so that a leaked one is worth little.
TOKEN_TTL_S = 900.0

ERROR_BY_CODE: dict[str, type[errors.LuthierError]] = {
    "INVALID_ARGUMENT": errors.InvalidArgumentError,
    "UNAUTHENTICATED": errors.UnauthenticatedError,
    "PERMISSION_DENIED": errors.PermissionDeniedError,
    "NOT_FOUND": errors.NotFoundError,
    "ALREADY_EXISTS": errors.AlreadyExistsError,
    "FAILED_PRECONDITION": errors.FailedPreconditionError,
    "ABORTED": errors.AbortedError,
    "RESOURCE_EXHAUSTED": errors.ResourceExhaustedError,
    "UNAVAILABLE": errors.UnavailableError,
    "DEADLINE_EXCEEDED": errors.DeadlineExceededError,
    "DATA_LOSS": errors.DataLossError,
}


class SdkPeers:
    """Trainer and curation; see `evaluations.Peers`."""

    def __init__(self, client: AsyncClient, issuer: TokenIssuer) -> None:
        self._client = client
        self._issuer = issuer

    async def adapter_revision(self, tenant: str, name: str) -> AdapterRevision:
        """What the trainer says."""
        client = client_of(self._client, self._issuer, tenant)
        return wire.adapter_revision_from_proto(await translated(client.adapters.get_revision(name)))

    async def dataset_revision(self, tenant: str, name: str) -> DatasetRevision:
        """What curation says."""
        client = client_of(self._client, self._issuer, tenant)
        return wire.dataset_revision_from_proto(await translated(client.datasets.get_revision(name)))


class SdkAnswerer:
    """Inference; see `asking.Answerer`. Greedy: the same weights give the same answer again."""

    def __init__(self, client: AsyncClient, inputs: EvaluationInputs, *, timeout_s: float) -> None:
        self._inference = client.inference
        self._inputs = inputs
        self._timeout_s = timeout_s

    async def ask(self, arm: Arm, messages: Sequence[Message], *, max_tokens: int) -> Reply:
        """One answer. `timeout_s` covers the start of the engine and the loading of the adapter."""
        target = self._inputs.adapter_revision if arm.uses_adapter else self._inputs.base_model
        turns = [{"role": message.role, "content": message.content} for message in messages]
        call = self._inference.chat(target, turns, max_tokens=max_tokens, temperature=0.0, timeout_s=self._timeout_s)
        return wire.reply_from_proto(await translated(call))


def endpoints_of(config: ServerConfig) -> Endpoints:
    """Where the other services answer."""
    tls = TlsOptions(ca_file=config.tls_ca_path) if config.tls_ca_path else None
    return Endpoints(
        curation=config.curation_address, trainer=config.trainer_address, inference=config.inference_address, tls=tls
    )


def client_of(client: AsyncClient, issuer: TokenIssuer, tenant: str) -> AsyncClient:
    """A client over the same channels that acts for `tenant`."""
    token = functools.partial(issuer.issue, tenant=tenant, subject=SUBJECT, scopes=SCOPES, ttl_s=TOKEN_TTL_S)
    return client.with_token(token)


async def translated(call: Awaitable[T]) -> T:
    """The call's answer; an SDK error becomes the error of ours with the same code, reason, message and metadata."""
    try:
        return await call
    except sdk.LuthierError as error:
        raise error_of(error) from error


def error_of(error: sdk.LuthierError) -> errors.LuthierError:
    """See `translated`."""
    kind = ERROR_BY_CODE.get(error.code, errors.InternalError)
    found = kind(error.message, metadata=error.metadata)
    found.reason = error.reason  # type: ignore[misc]  # the other service's reason, kept for the caller
    retry_after_s = getattr(error, "retry_after_s", None)
    if isinstance(found, errors.RetryableError) and retry_after_s is not None:
        found.retry_after_s = retry_after_s
    return found
