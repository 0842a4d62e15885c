"""The files of keys and of revoked tokens: made once, rotated and extended while services run."""

from __future__ import annotations

import pathlib
import stat
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from luthier.tokens import read_claims
from luthierd.config import ServerConfig
from luthierd.errors import UnauthenticatedError
from luthierd.rpc.auth import TokenIssuer, TokenVerifier
from luthierd.rpc.keys import (
    KeyUnreadableError,
    create_keys,
    read_private_key,
    read_public_keys,
    revoke,
    rotate_keys,
)


@pytest.fixture
def config(tmp_path: pathlib.Path) -> ServerConfig:
    """An installation with keys."""
    create_keys(tmp_path / "keys")
    return ServerConfig(home=tmp_path)


def accepts(verifier: TokenVerifier, token: str) -> bool:
    try:
        verifier.verify(f"Bearer {token}")
    except UnauthenticatedError:
        return False
    return True


def test_keys_are_made_once_and_only_the_owner_reads_the_private_one(config: ServerConfig) -> None:
    made = config.signing_key.read_bytes()
    create_keys(config.home / "keys")
    assert config.signing_key.read_bytes() == made
    assert stat.S_IMODE(config.signing_key.stat().st_mode) == 0o600
    assert accepts(TokenVerifier.of(config), TokenIssuer.of(config).issue(tenant="acme", subject="s"))


def test_a_missing_public_key_is_derived_so_that_tokens_stay_valid(config: ServerConfig) -> None:
    token = TokenIssuer.of(config).issue(tenant="acme", subject="s")
    config.verify_key.unlink()
    create_keys(config.home / "keys")
    assert accepts(TokenVerifier.of(config), token)


def test_a_missing_private_key_is_reported_and_the_public_one_is_not_replaced(config: ServerConfig) -> None:
    public = config.verify_key.read_bytes()
    config.signing_key.unlink()
    with pytest.raises(KeyUnreadableError, match="restore the private key"):
        create_keys(config.home / "keys")
    assert config.verify_key.read_bytes() == public


def test_keys_that_do_not_belong_together_are_reported(config: ServerConfig, tmp_path: pathlib.Path) -> None:
    create_keys(tmp_path / "other")
    config.verify_key.write_bytes((tmp_path / "other/public.pem").read_bytes())
    with pytest.raises(KeyUnreadableError, match="not the public key of"):
        create_keys(config.home / "keys")


def test_after_a_rotation_running_services_take_old_and_new_tokens_until_the_old_key_is_dropped(
    config: ServerConfig,
) -> None:
    issuer, verifier = TokenIssuer.of(config), TokenVerifier.of(config)
    old = issuer.issue(tenant="acme", subject="s")
    assert rotate_keys(config.home / "keys") == 2
    new = issuer.issue(tenant="acme", subject="s")
    assert accepts(verifier, old)
    assert accepts(verifier, new)
    assert rotate_keys(config.home / "keys", drop_old=True) == 1
    assert not accepts(verifier, old)
    assert accepts(verifier, new)


def test_a_running_service_refuses_a_token_once_it_is_revoked_and_takes_others(config: ServerConfig) -> None:
    issuer, verifier = TokenIssuer.of(config), TokenVerifier.of(config)
    lost, kept = (issuer.issue(tenant="acme", subject="s") for _ in range(2))
    assert accepts(verifier, lost)
    revoke(config.revoked_tokens, {"jti": read_claims(lost)["jti"]})
    assert not accepts(verifier, lost)
    assert accepts(verifier, kept)


@pytest.mark.parametrize(("subject", "refused"), [("ann", {"ann"}), ("", {"ann", "bob"})])
def test_all_tokens_that_a_subject_got_until_now_can_be_revoked(
    config: ServerConfig, subject: str, refused: set[str]
) -> None:
    issuer, verifier = TokenIssuer.of(config), TokenVerifier.of(config)
    tokens = {name: issuer.issue(tenant="acme", subject=name) for name in ("ann", "bob")}
    elsewhere = issuer.issue(tenant="rival", subject="ann")
    revoke(config.revoked_tokens, {"tenant": "acme", "subject": subject, "issued_until_s": int(time.time())})
    assert {name for name, token in tokens.items() if not accepts(verifier, token)} == refused
    assert accepts(verifier, elsewhere)
    revoke(config.revoked_tokens, {"tenant": "acme", "subject": subject, "issued_until_s": 0})
    assert not accepts(verifier, tokens["ann"])  # an older entry does not weaken a newer one


def test_revocations_of_expired_tokens_are_forgotten(config: ServerConfig) -> None:
    revoke(config.revoked_tokens, {"jti": "old", "until_s": 10.0}, now_s=5.0)
    revoke(config.revoked_tokens, {"jti": "new"}, now_s=20.0)
    assert b"old" not in config.revoked_tokens.read_bytes()


def test_a_list_that_was_damaged_while_the_service_runs_does_not_let_revoked_tokens_in(
    config: ServerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    issuer, verifier = TokenIssuer.of(config), TokenVerifier.of(config)
    token = issuer.issue(tenant="acme", subject="s")
    revoke(config.revoked_tokens, {"jti": read_claims(token)["jti"]})
    assert not accepts(verifier, token)
    config.revoked_tokens.write_bytes(b"{")
    assert not accepts(verifier, token)
    assert "the last content counts" in caplog.text
    with pytest.raises(KeyUnreadableError, match="line 1"):
        TokenVerifier.of(config)
    with pytest.raises(KeyUnreadableError, match="line 1"):
        revoke(config.revoked_tokens, {"jti": "x"})


@pytest.mark.parametrize(("load", "file"), [(TokenIssuer.of, "private.pem"), (TokenVerifier.of, "public.pem")])
@pytest.mark.parametrize("content", [None, b"", b"not a key", b"\xff\xfe"])
def test_a_file_that_is_missing_or_no_key_is_named(
    load: Any, file: str, content: bytes | None, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "keys" / file
    if content is not None:
        path.parent.mkdir()
        path.write_bytes(content)
    with pytest.raises(KeyUnreadableError) as caught:
        load(ServerConfig(home=tmp_path))
    assert caught.value.metadata == {"path": str(path)}


def test_keys_of_another_kind_are_refused() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(KeyUnreadableError, match="Ed25519"):
        read_private_key(private)
    with pytest.raises(KeyUnreadableError, match="Ed25519"):
        read_public_keys(public)
