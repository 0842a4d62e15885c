from __future__ import annotations

import json
import sys

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from luthier import config_files, profiles, tokens
from luthier.client import AsyncClient
from luthier.endpoints import Endpoints, TlsOptions
from luthier.errors import ConfigError, InvalidNameError, ProfileError, UnknownKeyError
from luthier.services import SCOPES, SERVICES


@pytest.fixture
def key(tmp_path):
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "signing.pem"
    path.write_bytes(pem)
    return private.public_key(), path


@pytest.fixture
def env(tmp_path):
    """An environment in which nothing of this machine's own profile is seen."""
    return {"LUTHIER_HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "config")}


def install(env, signing_key):
    run = profiles.home(env) / "run"
    run.mkdir(parents=True)
    services = {name: {"pid": 1, "address": f"127.0.0.1:{i}"} for i, name in enumerate(["curation", "trainer"], 9001)}
    services["inference"] = {"pid": 1, "address": "127.0.0.1:9004", "http_address": "127.0.0.1:9080"}
    (run / "installation.json").write_text(json.dumps({"services": services, "signing_key": str(signing_key)}))


def test_the_local_installation_is_found_and_a_token_is_minted_for_the_tenant(env, key):
    public, path = key
    install(env, path)
    profile = profiles.resolve(tenant="acme", env=env)
    assert profile.endpoints == Endpoints(
        curation="127.0.0.1:9001",
        trainer="127.0.0.1:9002",
        inference="127.0.0.1:9004",
        openai_http="http://127.0.0.1:9080/v1",
    )
    claims = jwt.decode(profile.token(), public, algorithms=["EdDSA"], audience="luthier", issuer="luthier")
    assert (claims["tenant"], claims["sub"]) == ("acme", "cli")
    assert claims["scope"].split() == list(SCOPES)
    assert claims["exp"] - claims["iat"] == tokens.LOCAL_TTL_S


def test_a_minted_token_is_kept_until_shortly_before_it_expires(key):
    clock = [1_000_000.0]
    source = tokens.local_source(key[1], tenant="acme", clock=lambda: clock[0])
    first = source()
    clock[0] += tokens.LOCAL_TTL_S - tokens.RENEW_BEFORE_S - 1
    assert source() == first
    clock[0] += 2
    assert source() != first


def test_without_an_installation_the_message_says_how_to_start_one(env):
    with pytest.raises(ProfileError, match="`luthier up`"):
        profiles.resolve(env=env)


def test_an_argument_beats_the_environment_and_that_the_file(env, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "profile.yaml").write_text("endpoint: file.example\ntenant: file\ntoken: secret\n")
    assert profiles.resolve(env=env).endpoints.trainer == "file.example:7102"
    assert profiles.resolve(env=env).token == "secret"
    env |= {"LUTHIER_ENDPOINT": "env.example:8000", "LUTHIER_TENANT": "env"}
    assert profiles.resolve(env=env).endpoints.inference == "env.example:8003"
    chosen = profiles.resolve(endpoint="arg.example", tenant="arg", env=env)
    assert (chosen.endpoints.openai_http, chosen.tenant) == ("http://arg.example:7180/v1", "arg")


def test_tls_and_token_file_of_a_profile_are_used(env, tmp_path):
    (tmp_path / "token").write_text("from-file\n")
    profile = tmp_path / "p.yaml"
    profile.write_text(f"endpoint: h\ntoken_file: {tmp_path}/token\ntls: {{ca_file: /ca.pem, server_name: luthier}}\n")
    found = profiles.resolve(env=env | {"LUTHIER_PROFILE": str(profile)})
    assert found.token == "from-file"
    assert (str(found.endpoints.tls.ca_file), found.endpoints.tls.server_name) == ("/ca.pem", "luthier")
    assert found.endpoints.openai_http.startswith("https://")


@pytest.mark.parametrize(("text", "nearest"), [("endpiont: x", "endpoint"), ("tls: {ca_fiel: x}", "ca_file")])
def test_an_unknown_key_of_a_profile_is_named(env, tmp_path, text, nearest):
    profile = tmp_path / "p.yaml"
    profile.write_text(f"{text}\n" if text.startswith("endp") else f"endpoint: x\n{text}\n")
    with pytest.raises(UnknownKeyError) as caught:
        profiles.resolve(env=env | {"LUTHIER_PROFILE": str(profile)})
    assert caught.value.nearest == nearest


def test_a_tenant_that_is_no_id_is_refused(env):
    with pytest.raises(InvalidNameError):
        profiles.resolve(endpoint="h", tenant="Not An Id", env=env)


@pytest.mark.parametrize(
    ("endpoint", "trainer"),
    [
        ("h", "h:7102"),
        ("h:100", "h:101"),
        ("10.0.0.1:7101", "10.0.0.1:7102"),
        ("[::1]:7101", "[::1]:7102"),
        ("::1", "[::1]:7102"),
    ],
)
def test_an_endpoint_is_a_host_with_or_without_a_base_port(endpoint, trainer):
    assert Endpoints.from_host(endpoint).trainer == trainer


@pytest.mark.parametrize("endpoint", ["h:", "h:x", ":7101", "h:0", "h:65535"])
def test_an_endpoint_that_is_none_is_refused(endpoint):
    with pytest.raises(ProfileError, match="HOST:BASE_PORT"):
        Endpoints.from_host(endpoint)


def test_a_signing_key_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ProfileError, match=r"none\.pem"):
        tokens.mint(tmp_path / "none.pem", tenant="acme")


def test_without_the_extra_the_message_names_it(monkeypatch, key, tmp_path):
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ProfileError, match=r"luthier\[server\]"):
        tokens.mint(key[1], tenant="acme")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match=r"luthier\[cli\]"):
        config_files.read_mapping(tmp_path / "x.yaml")


def test_every_service_of_the_list_has_an_address() -> None:
    endpoints = Endpoints.from_host("h")
    assert [endpoints.address_of(name) for name in SERVICES] == [f"h:{spec.port}" for spec in SERVICES.values()]


@pytest.mark.parametrize(
    "address", ["localhost:7101", "127.0.0.1:7101", "127.8.0.1:65535", "[::1]:7101", "unix:/run/luthier.sock", ""]
)
def test_tokens_may_go_to_this_machine(address):
    assert Endpoints(trainer=address).may_carry_tokens("trainer")


@pytest.mark.parametrize(
    "address",
    ["gpu-1.example:7101", "10.0.0.7:7101", "localhost.example:7101", "[2001:db8::1]:7101", "127.0.0.1.evil:1"],
)
def test_tokens_may_go_to_other_machines_only_encrypted_or_when_told_so(address):
    assert not Endpoints(trainer=address).may_carry_tokens("trainer")
    assert Endpoints(trainer=address, tls=TlsOptions()).may_carry_tokens("trainer")
    assert Endpoints(trainer=address, insecure_network=True).may_carry_tokens("trainer")


def test_the_environment_or_the_profile_allows_plain_text(env):
    env |= {"LUTHIER_ENDPOINT": "gpu-1.example", "LUTHIER_TOKEN": "t"}
    assert not profiles.resolve(env=env).endpoints.may_carry_tokens("trainer")
    assert profiles.resolve(env=env | {"LUTHIER_INSECURE_NETWORK": "1"}).endpoints.may_carry_tokens("trainer")
    stored = profiles.home(env) / "profile.yaml"
    stored.parent.mkdir(parents=True)
    stored.write_text("insecure_network: true\n")
    assert profiles.resolve(env=env).endpoints.may_carry_tokens("trainer")


async def test_a_token_is_not_sent_to_another_machine_in_plain_text():
    async with AsyncClient(Endpoints(trainer="192.0.2.1:7101"), "secret") as client:
        with pytest.raises(ProfileError, match="plain text") as caught:
            await client.training_jobs.get("tenants/acme/trainingJobs/j1")
    assert caught.value.reason == "TOKEN_IN_PLAIN_TEXT"
    assert "secret" not in str(caught.value)
