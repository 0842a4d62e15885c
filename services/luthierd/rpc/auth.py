"""Who calls: signed tokens (JWT, EdDSA) with tenant, scopes and expiry; and whose resources a call may name.

The claims: `iss` and `aud` "luthier", `sub`, `tenant`, `scope` (space separated), `iat`, `exp`, `jti`.
"""

from __future__ import annotations

import contextvars
import functools
import pathlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.api import resource_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from luthier.services import SCOPES
from luthier.tokens import AUDIENCE, ISSUER, claims_of

from luthierd.errors import FailedPreconditionError, PermissionDeniedError, UnauthenticatedError


class KeyUnreadableError(FailedPreconditionError):
    """A key file is missing or is not an Ed25519 key."""

    reason = "KEY_UNREADABLE"


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
    """Checks tokens against a public key."""

    def __init__(self, public_key_pem: bytes) -> None:
        """KeyUnreadableError unless it is an Ed25519 key in PEM."""
        try:
            key = serialization.load_pem_public_key(public_key_pem)
        except ValueError as error:
            raise KeyUnreadableError("the key to check tokens with is not a public key in PEM") from error
        if not isinstance(key, Ed25519PublicKey):
            raise KeyUnreadableError("the key to check tokens with is not an Ed25519 key")
        self._key = key

    @classmethod
    def from_file(cls, path: pathlib.Path) -> TokenVerifier:
        """KeyUnreadableError if there is no key in the file."""
        return _load(cls, path)

    def verify(self, authorization: str | None) -> Principal:
        """The caller of an `authorization` header. UnauthenticatedError says what is wrong with it."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise UnauthenticatedError(
                "the call carries no token; send `authorization: Bearer <token>` (luthier auth issue)"
            )
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=["EdDSA"],
                issuer=ISSUER,
                audience=AUDIENCE,
                options={"require": ["exp", "sub", "tenant", "scope"]},
            )
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError("the token has expired; issue a new one with `luthier auth issue`") from None
        except jwt.InvalidTokenError as error:
            raise UnauthenticatedError(f"the token is invalid: {error}") from None
        return Principal(str(claims["sub"]), str(claims["tenant"]), frozenset(str(claims["scope"]).split()))


class TokenIssuer:
    """Signs tokens with a private key."""

    def __init__(self, private_key_pem: bytes) -> None:
        """KeyUnreadableError unless it is an Ed25519 key in PEM, without a password."""
        try:
            key = serialization.load_pem_private_key(private_key_pem, password=None)
        except (ValueError, TypeError) as error:
            raise KeyUnreadableError("the key to sign tokens with is not a private key in PEM") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyUnreadableError("the key to sign tokens with is not an Ed25519 key")
        self._key = key

    @classmethod
    def from_file(cls, path: pathlib.Path) -> TokenIssuer:
        """KeyUnreadableError if there is no key in the file."""
        return _load(cls, path)

    def issue(self, *, tenant: str, subject: str, scopes: Iterable[str] = SCOPES, ttl_s: float = 3600.0) -> str:
        """A token for `subject` of `tenant`, valid for `ttl_s` seconds."""
        claims = claims_of(tenant=tenant, subject=subject, scopes=scopes, ttl_s=ttl_s, now_s=time.time())
        return jwt.encode(claims, self._key, algorithm="EdDSA")


K = TypeVar("K", TokenVerifier, TokenIssuer)


def _load(cls: type[K], path: pathlib.Path) -> K:
    """`cls` of the key in the file; KeyUnreadableError names it."""
    try:
        return cls(path.read_bytes())
    except OSError as error:
        raise KeyUnreadableError(
            f"the key {path} cannot be read ({error.strerror}); `luthier up` makes one", metadata={"path": str(path)}
        ) from error
    except KeyUnreadableError as error:
        raise KeyUnreadableError(f"{path}: {error}", metadata={"path": str(path)}) from error


def create_keys(folder: pathlib.Path) -> None:
    """Creates `private.pem` (readable by the owner only) and `public.pem` in `folder` unless they exist."""
    private_path, public_path = folder / "private.pem", folder / "public.pem"
    if private_path.exists() and public_path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = Ed25519PrivateKey.generate()
    private_path.touch(mode=0o600)
    private_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public_path.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


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
