"""Where an installation's services are and how to trust them."""

from __future__ import annotations

import ipaddress
import pathlib
from dataclasses import dataclass

from luthier.errors import ProfileError
from luthier.services import SERVICES

BASE_PORT = min(spec.port for spec in SERVICES.values())
OPENAI_PORT = SERVICES["inference"].http_port


@dataclass(frozen=True)
class TlsOptions:
    """TLS to the services.

    ca_file: PEM of the authorities to trust; None: gRPC's own list. cert_file and key_file: PEM of a client's
    certificate, both or neither. server_name: the name to expect in the server's certificate if not the host called.
    """

    ca_file: pathlib.Path | None = None
    cert_file: pathlib.Path | None = None
    key_file: pathlib.Path | None = None
    server_name: str = ""


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """`host:port` of each service; empty: not known, and calling it is a `ProfileError`. tls None: plain text.

    openai_http: base URL of the OpenAI-compatible endpoint, e.g. `http://127.0.0.1:7180/v1`. insecure_network: send
    tokens to other machines in plain text, because the network itself encrypts.
    """

    curation: str = ""
    trainer: str = ""
    evaluator: str = ""
    inference: str = ""
    openai_http: str = ""
    tls: TlsOptions | None = None
    insecure_network: bool = False

    @classmethod
    def from_host(cls, endpoint: str, *, tls: TlsOptions | None = None, insecure_network: bool = False) -> Endpoints:
        """An installation on one host: `HOST` on the default ports, or `HOST:BASE_PORT` with the services on
        BASE_PORT .. BASE_PORT + 3 and the OpenAI endpoint on BASE_PORT + 79.
        """
        host, base_port = _split(endpoint)
        shift = 0 if base_port is None else base_port - BASE_PORT
        scheme = "https" if tls else "http"
        addresses = {name: f"{host}:{spec.port + shift}" for name, spec in SERVICES.items()}
        openai_http = f"{scheme}://{host}:{OPENAI_PORT + shift}/v1"
        return cls(**addresses, openai_http=openai_http, tls=tls, insecure_network=insecure_network)

    def address_of(self, service: str) -> str:
        """`host:port` of the service; empty if it is not known."""
        return str(getattr(self, service))

    def may_carry_tokens(self, service: str) -> bool:
        """Whether a token on its way to the service is safe from others on the network."""
        address = self.address_of(service)
        return self.tls is not None or self.insecure_network or not address or _is_local(address)


def _is_local(address: str) -> bool:
    """On this machine: a Unix socket, `localhost` or a loopback address."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return parsed.is_loopback or parsed.is_unspecified


def _split(endpoint: str) -> tuple[str, int | None]:
    """Host and port; `[::1]:7101` and a bare `::1` are understood."""
    if endpoint.count(":") > 1 and not endpoint.startswith("["):
        return f"[{endpoint}]", None
    host, separator, port = endpoint.rpartition(":") if not endpoint.endswith("]") else (endpoint, "", "")
    if not separator:
        return endpoint, None
    if not host or not port.isdigit() or not 0 < int(port) <= 65535 - (OPENAI_PORT - BASE_PORT):
        raise ProfileError(
            f"endpoint '{endpoint}' is not HOST or HOST:BASE_PORT; e.g. 'gpu-1.example:7101'",
            reason="INVALID_ENDPOINT",
            metadata={"endpoint": endpoint},
        )
    return host, int(port)
