"""Tokens signed with an installation's Ed25519 key, for users who can read that key: the machine's owner."""

from __future__ import annotations

import base64
import json
import pathlib
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from luthier.errors import ProfileError
from luthier.services import SCOPES

ISSUER = AUDIENCE = "luthier"
MAX_TTL_S = 366 * 86400
"""Longest life of a token from `luthier auth issue`, and so of an entry in the list of revoked tokens."""
LOCAL_TTL_S = 3600
RENEW_BEFORE_S = 60


def mint(
    signing_key: pathlib.Path,
    *,
    tenant: str,
    scopes: Sequence[str] = SCOPES,
    ttl_s: int = LOCAL_TTL_S,
    subject: str = "cli",
    now_s: float | None = None,
) -> str:
    """A signed JWT (EdDSA). Needs the `cli` or `server` extra for PyJWT."""
    try:
        import jwt
    except ModuleNotFoundError as error:
        raise ProfileError(
            "signing a token needs PyJWT: install the extra, pip install 'luthier[server]', or set LUTHIER_TOKEN to a "
            "token from `luthier auth issue`",
            reason="EXTRA_NOT_INSTALLED",
            metadata={"extra": "server", "package": "pyjwt"},
        ) from error
    try:
        key = signing_key.read_bytes()
    except OSError as error:
        raise ProfileError(
            f"the signing key {signing_key} cannot be read ({error.strerror}); be the user who ran `luthier up`, "
            "or set LUTHIER_TOKEN to a token from `luthier auth issue`",
            reason="SIGNING_KEY_UNREADABLE",
            metadata={"signing_key": str(signing_key)},
        ) from error
    now_s = time.time() if now_s is None else now_s
    claims = claims_of(tenant=tenant, subject=subject, scopes=scopes, ttl_s=ttl_s, now_s=now_s)
    return jwt.encode(claims, key, algorithm="EdDSA")


def claims_of(*, tenant: str, subject: str, scopes: Iterable[str], ttl_s: float, now_s: float) -> dict[str, Any]:
    """What a token says: who may call, for which tenant, with which scopes, until when."""
    return {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "tenant": tenant,
        "scope": " ".join(scopes),
        "iat": int(now_s),
        "exp": int(now_s) + int(ttl_s),
        "jti": str(uuid.uuid4()),
    }


def read_claims(token: str) -> dict[str, Any]:
    """What a token says, unchecked. `ProfileError` if it is not a JWT."""
    try:
        payload = token.split(".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError) as error:
        raise ProfileError("this is not a token of `luthier auth issue`", reason="INVALID_TOKEN") from error
    return claims


def local_source(
    signing_key: pathlib.Path, *, tenant: str, clock: Callable[[], float] = time.time
) -> Callable[[], str]:
    """A token source that mints a token when there is none and a new one shortly before it expires."""
    held: list[tuple[str, float]] = []

    def token() -> str:
        now_s = clock()
        if not held or held[0][1] - now_s < RENEW_BEFORE_S:
            held[:] = [(mint(signing_key, tenant=tenant, now_s=now_s), now_s + LOCAL_TTL_S)]
        return held[0][0]

    return token
