"""Who calls: signed tokens (JWT, EdDSA) with tenant, scopes and expiry; and whose resources a call may name.

The claims: `iss` and `aud` "luthier", `sub`, `tenant`, `scope` (space separated), `iat`, `exp`, `jti`.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.api import resource_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from luthier.services import SCOPES
from luthier.tokens import AUDIENCE, ISSUER, claims_of

from luthierd.config import ServerConfig
from luthierd.errors import PermissionDeniedError, UnauthenticatedError
from luthierd.rpc.keys import Revocations, WatchedFile, read_private_key, read_public_keys

CLOCK_LEEWAY_S = 30.0
"""How far the clocks of issuer and server may differ."""


@dataclass(frozen=True)
class Principal:
    """The caller, according to its token."""

    subject: str
    tenant: str
    scopes: frozenset[str]

    def require_scope(self, scope: str) -> None:
        """PermissionDeniedError unless the token has `scope`."""
        if scope not in self.scopes:
            raise PermissionDeniedError(
                f"this needs the scope {scope}, which the token of {self.subject} does not have; "
                f"issue one with `luthier auth issue --scopes {scope}`",
                metadata={"scope": scope, "subject": self.subject},
            )

    def require_tenant(self, name: str) -> None:
        """PermissionDeniedError if `name` is of another tenant, whether or not it exists."""
        parts = name.split("/")
        if parts[0] == "tenants" and (len(parts) < 2 or parts[1] != self.tenant):
            raise PermissionDeniedError(
                f"the token is for tenant {self.tenant}, not for {name}",
                metadata={"tenant": self.tenant, "resource": name},
            )


_principal: contextvars.ContextVar[Principal] = contextvars.ContextVar("principal")


def current_principal() -> Principal:
    """The caller of the current call. LookupError outside a call."""
    return _principal.get()


def set_principal(principal: Principal) -> None:
    """Sets the caller for the rest of this task."""
    _principal.set(principal)


class TokenVerifier:
    """Checks tokens against public keys and against the list of revoked tokens."""

    def __init__(
        self,
        public_keys: Callable[[], Sequence[Ed25519PublicKey]],
        revocations: Callable[[], Revocations] = Revocations,
    ) -> None:
        """`public_keys`: the keys that count now; `revocations`: the list as it is now."""
        self._public_keys, self._revocations = public_keys, revocations

    @classmethod
    def of(cls, config: ServerConfig) -> TokenVerifier:
        """Follows changes of the files while the server runs. KeyUnreadableError if there is no key now."""
        return cls(
            WatchedFile(config.verify_key, read_public_keys).read,
            WatchedFile(config.revoked_tokens, Revocations.parse, missing=Revocations()).read,
        )

    def verify(self, authorization: str | None) -> Principal:
        """The caller of an `authorization` header. UnauthenticatedError says what is wrong with it."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise UnauthenticatedError(
                "the call carries no token; send `authorization: Bearer <token>` (luthier auth issue)"
            )
        try:
            claims = self._claims(token)
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError("the token has expired; issue a new one with `luthier auth issue`") from None
        except jwt.InvalidTokenError as error:
            raise UnauthenticatedError(f"the token is invalid: {error}") from None
        if self._revocations().includes(claims):
            raise UnauthenticatedError("the token was revoked; ask the operator for a new one")
        return Principal(str(claims["sub"]), str(claims["tenant"]), frozenset(str(claims["scope"]).split()))

    def _claims(self, token: str) -> dict[str, Any]:
        """The claims, signed with one of the keys. `jwt.InvalidTokenError`."""
        for key in self._public_keys():
            with contextlib.suppress(jwt.InvalidSignatureError):
                claims: dict[str, Any] = jwt.decode(
                    token,
                    key,
                    algorithms=["EdDSA"],
                    issuer=ISSUER,
                    audience=AUDIENCE,
                    leeway=CLOCK_LEEWAY_S,
                    options={"require": ["exp", "sub", "tenant", "scope"]},
                )
                return claims
        raise jwt.InvalidSignatureError("no key of this installation signed it")


class TokenIssuer:
    """Signs tokens with a private key."""

    def __init__(self, private_key: Callable[[], Ed25519PrivateKey]) -> None:
        """`private_key`: the key to sign with now."""
        self._private_key = private_key

    @classmethod
    def of(cls, config: ServerConfig) -> TokenIssuer:
        """Follows changes of the key's file. KeyUnreadableError if there is no key now."""
        return cls(WatchedFile(config.signing_key, read_private_key).read)

    def issue(self, *, tenant: str, subject: str, scopes: Iterable[str] = SCOPES, ttl_s: float = 3600.0) -> str:
        """A token for `subject` of `tenant`, valid for `ttl_s` seconds."""
        claims = claims_of(tenant=tenant, subject=subject, scopes=scopes, ttl_s=ttl_s, now_s=time.time())
        return jwt.encode(claims, self._private_key(), algorithm="EdDSA")


def check_tenant(request: Message, principal: Principal) -> None:
    """PermissionDeniedError if any resource that `request` names is of another tenant.

    The fields are those annotated with `google.api.resource_reference`, at any depth: text is never taken for a name.
    """
    for name in _referenced_names(request):
        principal.require_tenant(name)


def _referenced_names(message: Message) -> Iterator[str]:
    for field in _relevant_fields(message.DESCRIPTOR):
        value = getattr(message, field.name)
        values = value if field.is_repeated else [value]
        if field.message_type is None:
            yield from values
        elif field.is_repeated or message.HasField(field.name):
            for child in values:
                yield from _referenced_names(child)


@functools.cache
def _relevant_fields(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    """Fields of a message that name a resource, or contain one that does."""

    def leads_to_name(field: FieldDescriptor) -> bool:
        if field.message_type is not None:
            own = field.message_type.file.package.startswith("luthier.")
            return own and not field.message_type.GetOptions().map_entry and bool(_relevant_fields(field.message_type))
        return field.GetOptions().HasExtension(resource_pb2.resource_reference)

    return tuple(field for field in descriptor.fields if leads_to_name(field))
