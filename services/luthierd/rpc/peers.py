"""Calls from one service to another, through the SDK, on behalf of a tenant."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import luthier.errors as sdk
from luthier.client import AsyncClient
from luthier.endpoints import Endpoints, TlsOptions

from luthierd import errors
from luthierd.config import ServerConfig
from luthierd.errors import BY_CODE
from luthierd.rpc.auth import TokenIssuer

T = TypeVar("T")

TOKEN_TTL_S = 900.0
"""Each call gets a new token (under a millisecond), so that a leaked one expires soon."""


def endpoints_of(config: ServerConfig) -> Endpoints:
    """Where the services answer."""
    tls = TlsOptions(ca_file=config.tls_ca_path) if config.tls_ca_path else None
    return Endpoints(**config.addresses, tls=tls, insecure_network=config.insecure_network)


def acting_for(
    tenant: str, *, client: AsyncClient, issuer: TokenIssuer, service: str, scopes: Sequence[str]
) -> AsyncClient:
    """A client over the same channels that acts for `tenant` as `service`, limited to `scopes`."""
    subject = f"service:{service}"
    return client.with_token(
        functools.partial(issuer.issue, tenant=tenant, subject=subject, scopes=scopes, ttl_s=TOKEN_TTL_S)
    )


async def translated(call: Awaitable[T]) -> T:
    """The response; an SDK error becomes our error with the same code, reason, message and metadata."""
    try:
        return await call
    except sdk.LuthierError as error:
        raise error_of(error) from error


def error_of(error: sdk.LuthierError) -> errors.LuthierError:
    """See `translated`."""
    kind = BY_CODE.get(error.code, errors.InternalError)
    found = kind(error.message, metadata=error.metadata)
    found.reason = error.reason  # type: ignore[misc]  # the other service's reason, kept for the caller
    if isinstance(found, errors.InvalidArgumentError):
        violations = getattr(error, "field_violations", ())
        found.violations = tuple(errors.FieldViolation(v.field, v.description) for v in violations)
    retry_after_s = getattr(error, "retry_after_s", None)
    if isinstance(found, errors.RetryableError) and retry_after_s is not None:
        found.retry_after_s = retry_after_s
    return found
