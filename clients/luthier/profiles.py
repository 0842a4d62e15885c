"""Which installation and which tenant: the only place of the client that reads the environment.

In this order: arguments (`--endpoint`, `--tenant`), LUTHIER_ENDPOINT / LUTHIER_TENANT / LUTHIER_TOKEN, the profile file
(LUTHIER_PROFILE, else $LUTHIER_HOME/profile.yaml, else ~/.config/luthier/profile.yaml), and last the installation that
`luthier up` runs on this machine ($LUTHIER_HOME/run/installation.json; LUTHIER_HOME is ~/.luthier by default).

A profile file:

    endpoint: gpu-1.example:7101
    tenant: acme
    token_file: /home/me/acme.token     # or token: ...
    tls: {ca_file: /etc/luthier/ca.pem}

Without `tls`, a token is sent to this machine only. `insecure_network: true`, or LUTHIER_INSECURE_NETWORK=1, allows
other machines: for a network that encrypts by itself.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthier import names, tokens
from luthier.config_files import read_mapping, unknown_key
from luthier.endpoints import Endpoints, TlsOptions
from luthier.errors import ConfigError, ProfileError
from luthier.services import SERVICES
from luthier.transport import TokenSource

DEFAULT_TENANT = "default"
_KEYS = ("endpoint", "tenant", "token", "token_file", "tls", "insecure_network")
_TRUE = ("1", "true", "yes")
_TLS_KEYS = ("ca_file", "cert_file", "key_file", "server_name")


@dataclass(frozen=True)
class Profile:
    """An installation, a tenant of it, and the right to call it. signing_key: only for the local installation."""

    endpoints: Endpoints
    tenant: str
    token: TokenSource | None
    signing_key: pathlib.Path | None = None


def home(env: Mapping[str, str] | None = None) -> pathlib.Path:
    """The folder of the local installation."""
    values = os.environ if env is None else env
    return pathlib.Path(values.get("LUTHIER_HOME") or pathlib.Path.home() / ".luthier")


def resolve(*, endpoint: str | None = None, tenant: str | None = None, env: Mapping[str, str] | None = None) -> Profile:
    """The profile to use; `ProfileError` if there is no installation to talk with."""
    values = os.environ if env is None else env
    stored = _stored(values)
    endpoint = endpoint or values.get("LUTHIER_ENDPOINT") or stored.get("endpoint")
    tenant = tenant or values.get("LUTHIER_TENANT") or stored.get("tenant") or DEFAULT_TENANT
    names.tenant(tenant)
    token = values.get("LUTHIER_TOKEN") or _stored_token(stored)
    if endpoint:
        insecure = stored.get("insecure_network") is True or values.get("LUTHIER_INSECURE_NETWORK") in _TRUE
        endpoints = Endpoints.from_host(endpoint, tls=_tls(stored.get("tls")), insecure_network=insecure)
        return Profile(endpoints, tenant, token)
    return _local(home(values), tenant, token)


def installation(folder: pathlib.Path) -> dict[str, Any]:
    """What `luthier up` wrote about the local installation; `ProfileError` if nothing runs here."""
    path = folder / "run" / "installation.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise ProfileError(
            "no installation runs on this machine; start one with `luthier up`, or name another with "
            "--endpoint HOST[:PORT]",
            metadata={"home": str(folder)},
        ) from None
    except (OSError, ValueError) as error:
        raise ProfileError(
            f"{path} cannot be read ({error}); run `luthier down` and `luthier up` to write it again",
            reason="INSTALLATION_UNREADABLE",
            metadata={"path": str(path)},
        ) from error
    return found


def _local(folder: pathlib.Path, tenant: str, token: str | None) -> Profile:
    found = installation(folder)
    services: Mapping[str, Mapping[str, Any]] = found.get("services", {})
    addresses: dict[str, Any] = {name: str(services.get(name, {}).get("address", "")) for name in SERVICES}
    http_address = services.get("inference", {}).get("http_address", "")
    endpoints = Endpoints(**addresses, openai_http=f"http://{http_address}/v1" if http_address else "")
    key = pathlib.Path(found["signing_key"]) if found.get("signing_key") else None
    source: TokenSource | None = token or (tokens.local_source(key, tenant=tenant) if key else None)
    return Profile(endpoints, tenant, source, signing_key=key)


def _stored(env: Mapping[str, str]) -> dict[str, Any]:
    """The profile file as a mapping; empty without one."""
    named = env.get("LUTHIER_PROFILE")
    candidates = (
        [pathlib.Path(named)]
        if named
        else [
            home(env) / "profile.yaml",
            pathlib.Path(env.get("XDG_CONFIG_HOME") or pathlib.Path.home() / ".config") / "luthier" / "profile.yaml",
        ]
    )
    for path in candidates:
        if named or path.is_file():
            stored = read_mapping(path)
            _refuse_unknown(stored, _KEYS, "")
            return stored
    return {}


def _stored_token(stored: Mapping[str, Any]) -> str | None:
    if stored.get("token_file"):
        path = pathlib.Path(stored["token_file"]).expanduser()
        try:
            return path.read_text().strip()
        except OSError as error:
            raise ProfileError(
                f"token_file {path} of the profile cannot be read ({error.strerror}); "
                "make a token with `luthier auth issue`",
                reason="TOKEN_UNREADABLE",
                metadata={"path": str(path)},
            ) from error
    return stored.get("token")


def _tls(stored: Any) -> TlsOptions | None:
    if not stored:
        return None
    if stored is True:
        return TlsOptions()
    if not isinstance(stored, Mapping):
        wanted = f"a mapping of {', '.join(_TLS_KEYS)}"
        raise ConfigError(f"key 'tls' of the profile must be {wanted}", metadata={"path": "tls", "wanted": wanted})
    _refuse_unknown(stored, _TLS_KEYS, "tls.")
    files = {key: pathlib.Path(stored[key]).expanduser() for key in _TLS_KEYS[:3] if stored.get(key)}
    return TlsOptions(**files, server_name=str(stored.get("server_name", "")))


def _refuse_unknown(stored: Mapping[str, Any], known: tuple[str, ...], prefix: str) -> None:
    for key in stored:
        if key not in known:
            raise unknown_key(f"{prefix}{key}", known, of="the profile")
