"""Configuration: the only reader of the environment.

A service's configuration is one frozen dataclass. Field `drain_delay_s` of the trainer is read from
`LUTHIER_TRAINER_DRAIN_DELAY_S`, or from `LUTHIER_DRAIN_DELAY_S` for all services; the first one set wins.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from luthier.services import SERVICES

from luthierd.errors import InvalidArgumentError
from luthierd.text import nearest

DEFAULT_HOME = pathlib.Path("~/.luthier").expanduser()

LOOPBACK = {name: f"127.0.0.1:{spec.port}" for name, spec in SERVICES.items()}

T = TypeVar("T", bound="ServerConfig")


class ConfigError(InvalidArgumentError):
    """A setting that cannot be parsed or does not exist."""

    reason = "INVALID_CONFIGURATION"


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Settings of every server. Services add their own fields."""

    home: pathlib.Path = DEFAULT_HOME
    """Folder of the installation: databases, blobs, keys, logs."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs TLS, or `insecure_network` set explicitly."""
    port: int = 0
    """Port of the gRPC server; 0: any free one."""
    metrics_port: int = 0
    """Port of the Prometheus page; 0: any free one."""
    database_url: str = ""
    """SQLAlchemy URL, `postgresql+asyncpg://...`; empty: a SQLite file `<service>.db` in `home`."""
    blobs_url: str = ""
    """fsspec URL of the blob store, `s3://bucket/prefix`; empty: the folder `blobs` in `home`."""
    verify_key_path: pathlib.Path | None = None
    """Ed25519 public keys (PEM) that tokens are checked with; empty: `keys/public.pem` in `home`."""
    signing_key_path: pathlib.Path | None = None
    """Ed25519 private key (PEM) for calls to the other services; empty: `keys/private.pem` in `home`."""
    revoked_tokens_path: pathlib.Path | None = None
    """List of revoked tokens (`luthier auth revoke`); empty: `keys/revoked.jsonl` in `home`."""
    tls_certificate_path: pathlib.Path | None = None
    """Certificate chain (PEM). Set together with `tls_key_path` to serve TLS."""
    tls_key_path: pathlib.Path | None = None
    """Private key (PEM) of the certificate."""
    tls_ca_path: pathlib.Path | None = None
    """Certificates (PEM) to verify the other services with; set it if they serve TLS."""
    insecure_network: bool = False
    """Allow plain text beyond loopback, for a mesh that encrypts."""
    drain_delay_s: float = 0.0
    """Seconds between NOT_SERVING and the rejection of calls, for load balancers to notice."""
    grace_s: float = 10.0
    """Seconds that calls in flight get at shutdown."""
    cleanup_s: float = 10.0
    """Seconds that aborted calls get to clean up."""
    max_message_bytes: int = 16 * 1024 * 1024
    """Largest message in either direction."""
    max_concurrent_rpcs: int = 512
    """Calls with a token in flight; more are rejected immediately with RESOURCE_EXHAUSTED."""
    max_concurrent_rpcs_per_tenant: int = 384
    """Of these, the calls of one tenant."""
    max_public_calls: int = 64
    """Calls without a token in flight (Health.Watch, reflection), and as many Health.Check. A newcomer takes the place
    of the oldest one of the address that has most."""
    max_unauthenticated_connections: int = 256
    """gRPC connections on which no valid token has come yet. The address that has most loses its oldest ones."""
    max_streams_per_connection: int = 256
    """Calls in flight on one gRPC connection; the client holds back more."""
    handshake_limit_s: float = 10.0
    """Seconds for a new gRPC connection to begin to speak HTTP/2, TLS included; for a call without a token, but for a
    Watch; and for the answer to a ping."""
    connection_idle_limit_s: float = 300.0
    """Seconds after which a gRPC connection without calls is closed; clients connect again with their next call."""
    keepalive_s: float = 60.0
    """Seconds of silence on a gRPC connection before the server pings, to find those whose client has vanished."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    worker_count: int = 1
    """Jobs of this service that run at the same time on this machine."""
    max_waiting_jobs_per_tenant: int = 100
    """Jobs of one tenant that may wait in this service; more are refused with JOB_QUOTA_EXCEEDED. 0: no limit."""
    max_running_jobs_per_tenant: int = 0
    """Jobs of one tenant that may run at the same time on all machines together; more wait, even if workers are idle.
    0: no limit, but the tenant with the fewest running jobs goes first."""
    max_lora_rank: int = 32
    """Largest LoRA rank that is trained and served; vLLM takes 8, 16, 32, 64, 128, 256, 320 or 512."""
    lease_s: float = 15.0
    """Seconds without a heartbeat after which a worker counts as dead and another one gets its job."""
    sweep_interval_s: float = 6 * 3600.0
    """Seconds between two sweeps of what nothing needs any more; 0: only on `luthier storage --sweep`."""
    sweep_grace_s: float = 24 * 3600.0
    """What is younger is never swept, and what is deleted stays readable by digest for so long. At least 1,200 on a
    remote blob store."""
    event_retention_s: float = 30 * 86400.0
    """Seconds after the end of a job in which its progress and messages are kept. How it ended stays."""
    log_retention_s: float = 30 * 86400.0
    """Seconds after its last line in which the log of a worker is kept."""
    log_max_bytes: int = 64 * 1024 * 1024
    """Size at which a log file is rotated; 0: never."""
    log_backup_count: int = 3
    """Rotated files kept of each log."""
    storage_patience_s: float = 86_400.0
    """Seconds that a job waits, all in all, for a full disk, a database or a blob store, before it fails."""
    addresses: Mapping[str, str] = field(default_factory=lambda: LOOPBACK)
    """`host:port` of each service; one variable each, such as `LUTHIER_TRAINER_ADDRESS`."""

    @property
    def verify_key(self) -> pathlib.Path:
        """The public keys' file."""
        return self.verify_key_path or self.home / "keys/public.pem"

    @property
    def signing_key(self) -> pathlib.Path:
        """The private key's file."""
        return self.signing_key_path or self.home / "keys/private.pem"

    @property
    def revoked_tokens(self) -> pathlib.Path:
        """The file of revoked tokens, which need not exist."""
        return self.revoked_tokens_path or self.home / "keys/revoked.jsonl"


def load_config(cls: type[T], service: str, *, environment: Mapping[str, str] | None = None) -> T:
    """Reads `cls` for `service` from the environment. ConfigError names a bad or unknown variable.

    Only `LUTHIER_<SERVICE>_*` is checked for unknown names: `LUTHIER_*` alone also serves the client.
    """
    environment = os.environ if environment is None else environment
    prefix = f"LUTHIER_{service.upper()}_"
    hints = typing.get_type_hints(cls)
    settings = {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.name != "addresses"}
    settings |= {f"{name}_address": str for name in SERVICES}
    known = [name.upper() for name in settings]
    shared = {f"LUTHIER_{name}" for name in known}  # LUTHIER_TRAINER_ADDRESS is the trainer's own, too
    for variable in environment:
        if variable.startswith(prefix) and variable not in shared and variable.removeprefix(prefix) not in known:
            near = nearest(variable.removeprefix(prefix), known)
            hint = f"; did you mean {prefix}{near}?" if near else ""
            raise ConfigError(f"{variable} is not a setting of {service}{hint}", metadata={"variable": variable})
    values: dict[str, Any] = {}
    for name, kind in settings.items():
        for variable in (prefix + name.upper(), "LUTHIER_" + name.upper()):
            if variable in environment:
                values[name] = _parse(environment[variable], kind, variable)
                break
    addresses = {name: values.pop(f"{name}_address", default) for name, default in LOOPBACK.items()}
    return cls(**values, addresses=addresses)


def _parse(text: str, kind: Any, variable: str) -> Any:
    """`text` as a value of the field's type."""
    if isinstance(kind, types.UnionType):  # `X | None`
        kind = next(member for member in typing.get_args(kind) if member is not type(None))
    try:
        if kind is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if kind is pathlib.Path:
            return pathlib.Path(text).expanduser().absolute()
        return kind(text)
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"{variable}={text!r} is not of type {kind.__name__}", metadata={"variable": variable, "value": text}
        ) from error


def describe(config: ServerConfig) -> dict[str, str]:
    """The configuration for the log at start. Secrets in URLs and in fields named like secrets are masked."""
    shown = {field.name: str(getattr(config, field.name)) for field in dataclasses.fields(config)}
    return {name: "***" if _SECRET_FIELD.search(name) and value else _mask(value) for name, value in shown.items()}


_SECRET_FIELD = re.compile(r"(_|^)(password|secret|token|api_key)$")
_SECRET_IN_QUERY = re.compile(r"([?&][^=&]*(?:password|secret|token|key)[^=&]*=)[^&]*", re.IGNORECASE)


def _mask(value: str) -> str:
    """`value` without the user and password of a URL, and without secret arguments of its query."""
    scheme, separator, rest = value.partition("://")
    if not separator:
        return value
    if "@" in rest:
        rest = f"***@{rest.rpartition('@')[2]}"
    return scheme + separator + _SECRET_IN_QUERY.sub(r"\1***", rest)
