"""The files that tokens are signed and checked with: the private key, the public keys, the revoked tokens.

They change while services run: keys are rotated, tokens are revoked. The public file holds every key that still counts,
so that a new private key can come into use before the old tokens have expired.

    python -m luthierd.rpc.keys rotate | finish | revoke ENTRY    changes them and prints a JSON line
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from luthier.tokens import MAX_TTL_S

from luthierd.config import ServerConfig, load_config
from luthierd.errors import FailedPreconditionError, LuthierError
from luthierd.files import write_atomically

log = logging.getLogger(__name__)

T = TypeVar("T")

_PEM_BLOCK = re.compile(rb"-----BEGIN [^-]+-----.+?-----END [^-]+-----", re.DOTALL)


class KeyUnreadableError(FailedPreconditionError):
    """A key file is missing or is not an Ed25519 key."""

    reason = "KEY_UNREADABLE"


class WatchedFile(Generic[T]):
    """A file's content, read again when the file changes. A later version that cannot be read is logged and ignored."""

    def __init__(self, path: pathlib.Path, parse: Callable[[bytes], T], *, missing: T | None = None) -> None:
        """`missing`: what counts while there is no file; None: KeyUnreadableError if there is none now."""
        self._path, self._parse, self._missing = path, parse, missing
        self._seen = self._state()
        self._value = self._load()

    def read(self) -> T:
        """The content as it is now."""
        seen = self._state()
        if seen != self._seen:
            try:
                self._value = self._load()
            except KeyUnreadableError as error:
                log.error("a key file cannot be read; the last content counts", extra={"error": str(error)})
            self._seen = seen
        return self._value

    def _state(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return 0, 0, 0
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _load(self) -> T:
        try:
            return self._parse(self._path.read_bytes())
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._missing is not None:
                return self._missing
            raise KeyUnreadableError(
                f"the key {self._path} cannot be read ({error.strerror}); `luthier up` makes one",
                metadata={"path": str(self._path)},
            ) from error
        except KeyUnreadableError as error:
            raise KeyUnreadableError(f"{self._path}: {error}", metadata={"path": str(self._path)}) from error


def read_public_keys(pem: bytes) -> tuple[Ed25519PublicKey, ...]:
    """The keys of a file with one PEM block or more. KeyUnreadableError."""
    found = []
    for block in _PEM_BLOCK.findall(pem) or [pem]:
        try:
            key = serialization.load_pem_public_key(block)
        except ValueError as error:
            raise KeyUnreadableError("the key to check tokens with is not a public key in PEM") from error
        if not isinstance(key, Ed25519PublicKey):
            raise KeyUnreadableError("the key to check tokens with is not an Ed25519 key")
        found.append(key)
    return tuple(found)


def read_private_key(pem: bytes) -> Ed25519PrivateKey:
    """The key of a file, without a password. KeyUnreadableError."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise KeyUnreadableError("the key to sign tokens with is not a private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnreadableError("the key to sign tokens with is not an Ed25519 key")
    return key


def create_keys(folder: pathlib.Path) -> None:
    """Creates `private.pem` (readable by the owner only) and `public.pem` in `folder` unless they exist.

    A missing public key is derived from the private one. KeyUnreadableError if the private key is missing while
    something is signed with it, or if the two do not belong together.
    """
    private_path, public_path = folder / "private.pem", folder / "public.pem"
    if not private_path.exists():
        if public_path.exists():
            raise KeyUnreadableError(
                f"{private_path} is missing and {public_path} is not: restore the private key, or remove the public "
                "key to make a new pair, which ends all tokens",
                metadata={"path": str(private_path)},
            )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_private(private_path, Ed25519PrivateKey.generate())
    own = _pem(read_private_key(private_path.read_bytes()).public_key())
    if not public_path.exists():
        write_atomically(public_path, [own])
    elif own not in map(_pem, read_public_keys(public_path.read_bytes())):
        raise KeyUnreadableError(
            f"{public_path} is not the public key of {private_path}: restore the one that is wrong, or remove the "
            "public key to have it derived",
            metadata={"path": str(public_path)},
        )


def rotate_keys(folder: pathlib.Path, *, drop_old: bool = False) -> int:
    """Signs with a new private key from now on; tokens of the old ones stay valid. Returns the number of keys.

    `drop_old`: instead ends the tokens of all keys but the current one. KeyUnreadableError.
    """
    private_path, public_path = folder / "private.pem", folder / "public.pem"
    create_keys(folder)
    if drop_old:
        write_atomically(public_path, [_pem(read_private_key(private_path.read_bytes()).public_key())])
        return 1
    key = Ed25519PrivateKey.generate()
    known = [_pem(key.public_key()), *map(_pem, read_public_keys(public_path.read_bytes()))]
    write_atomically(public_path, known)  # first: tokens of the new key must be known when they come
    _write_private(private_path, key)
    return len(known)


def _pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _write_private(path: pathlib.Path, key: Ed25519PrivateKey) -> None:
    """In one step, and never readable by others."""
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


@dataclass(frozen=True)
class Revocations:
    """Revoked tokens: single ones by `jti`, or all that a subject of a tenant got until some moment.

    The file has one JSON object per line: `{"jti", "until_s"}` or `{"tenant", "subject", "issued_until_s", "until_s"}`.
    An empty subject means every subject. After `until_s` the tokens have expired anyway.
    """

    ids: frozenset[str] = frozenset()
    issued_until_s: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: bytes) -> Revocations:
        """KeyUnreadableError."""
        ids: set[str] = set()
        issued: dict[tuple[str, str], float] = {}
        for entry in _entries(content):
            if "jti" in entry:
                ids.add(str(entry["jti"]))
            else:
                key = str(entry["tenant"]), str(entry["subject"])
                issued[key] = max(float(entry["issued_until_s"]), issued.get(key, 0.0))
        return cls(frozenset(ids), issued)

    def includes(self, claims: Mapping[str, Any]) -> bool:
        """Whether the token with these claims was revoked."""
        if claims.get("jti") in self.ids:
            return True
        tenant, issued_s = str(claims["tenant"]), claims.get("iat", 0)
        return any(issued_s <= self.issued_until_s.get((tenant, subject), -1.0) for subject in ("", str(claims["sub"])))


def revoke(path: pathlib.Path, entry: Mapping[str, Any], *, now_s: float | None = None) -> None:
    """Adds an entry to the list of revoked tokens; forgets those that have expired. KeyUnreadableError."""
    now_s = time.time() if now_s is None else now_s
    kept = _entries(path.read_bytes()) if path.exists() else []
    kept = [one for one in kept if one["until_s"] > now_s] + [{"until_s": now_s + MAX_TTL_S, **entry}]
    write_atomically(path, (json.dumps(one).encode() + b"\n" for one in kept))


def _entries(content: bytes) -> list[dict[str, Any]]:
    entries = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            entry = json.loads(line)
            if not ("jti" in entry or {"tenant", "subject", "issued_until_s"} <= entry.keys()):
                raise ValueError("it revokes nothing")
            entry["until_s"] = float(entry["until_s"])
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise KeyUnreadableError(f"line {number} of the list of revoked tokens cannot be read: {error}") from error
        entries.append(entry)
    return entries


def main() -> int:
    """The command. Exit codes: 0 done, 1 error, 64 wrong usage."""
    verb, *more = [argument for argument in sys.argv[1:] if argument != "--json"] or [""]
    try:
        config = load_config(ServerConfig, "supervisor")
        if verb == "revoke" and len(more) == 1:
            revoke(config.revoked_tokens, json.loads(more[0]))
            changed: dict[str, Any] = {"path": str(config.revoked_tokens)}
        elif verb in ("rotate", "finish") and not more:
            changed = {"key_count": rotate_keys(config.home / "keys", drop_old=verb == "finish")}
        else:
            print(__doc__, file=sys.stderr)
            return 64
    except LuthierError as error:
        print(json.dumps({"event": "error", "reason": error.reason, "message": str(error), "metadata": error.metadata}))
        return 1
    print(json.dumps({"event": "result", **changed}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
