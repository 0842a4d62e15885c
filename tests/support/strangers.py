"""Tokens that nobody may be served with."""

from __future__ import annotations

import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from luthier.services import SCOPES

from support.serving import _key

_RIGHT = {"iss": "luthier", "aud": "luthier", "sub": "s", "tenant": "acme", "scope": " ".join(SCOPES)}


def signed(key: Any = _key, algorithm: str | None = "EdDSA", **claims: object) -> str:
    """A header with a token that is right, but for what `claims` change or (None) leave out."""
    given = _RIGHT | {"exp": time.time() + 600} | claims
    return f"Bearer {jwt.encode({n: v for n, v in given.items() if v is not None}, key, algorithm=algorithm)}"


STRANGERS = {
    "no token": None,
    "an empty token": "Bearer ",
    "another scheme": "Basic dXNlcjpwYXNz",
    "garbled": "Bearer x.y.z",
    "cut off": signed()[:-9],
    "expired": signed(exp=time.time() - 3600),
    "of another key": signed(Ed25519PrivateKey.generate()),
    "unsigned": signed(None, "none"),
    "for another audience": signed(aud="elsewhere"),
    "of another issuer": signed(iss="elsewhere"),
    "without a tenant": signed(tenant=None),
    "without an expiry": signed(exp=None),
}
"""`authorization` headers by what is wrong with them; None: there is none."""
