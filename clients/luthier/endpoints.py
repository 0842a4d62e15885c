"""Where an installation's services are and how to trust them."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

from luthier.errors import ProfileError

CURATION_PORT, TRAINER_PORT, EVALUATOR_PORT, INFERENCE_PORT, OPENAI_PORT = 7101, 7102, 7103, 7104, 7180
SERVICES = ("curation", "trainer", "evaluator", "inference")


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


@dataclass(frozen=True)
class Endpoints:
    """`host:port` of each service; empty: not known, and calling it is a `ProfileError`. tls None: plain text.

    openai_http: base URL of the OpenAI-compatible endpoint, e.g. `http://127.0.0.1:7180/v1`.
    """

    curation: str = ""
    trainer: str = ""
    evaluator: str = ""
    inference: str = ""
    openai_http: str = ""
    tls: TlsOptions | None = None

    @classmethod
    def from_host(cls, endpoint: str, *, tls: TlsOptions | None = None) -> Endpoints:
        """An installation on one host: `HOST` on the default ports, or `HOST:BASE_PORT` with the services on
        BASE_PORT .. BASE_PORT + 3 and the OpenAI endpoint on BASE_PORT + 79.
        """
        host, base_port = _split(endpoint)
        first = CURATION_PORT if base_port is None else base_port
        scheme = "https" if tls else "http"
        return cls(
            curation=f"{host}:{first}",
            trainer=f"{host}:{first + TRAINER_PORT - CURATION_PORT}",
            evaluator=f"{host}:{first + EVALUATOR_PORT - CURATION_PORT}",
            inference=f"{host}:{first + INFERENCE_PORT - CURATION_PORT}",
            openai_http=f"{scheme}://{host}:{first + OPENAI_PORT - CURATION_PORT}/v1",
            tls=tls,
        )


def _split(endpoint: str) -> tuple[str, int | None]:
    """Host and port; `[::1]:7101` and a bare `::1` are understood."""
    if endpoint.count(":") > 1 and not endpoint.startswith("["):
        return f"[{endpoint}]", None
    host, separator, port = endpoint.rpartition(":") if not endpoint.endswith("]") else (endpoint, "", "")
    if not separator:
        return endpoint, None
    if not host or not port.isdigit() or not 0 < int(port) <= 65535 - (OPENAI_PORT - CURATION_PORT):
        raise ProfileError(
            f"endpoint '{endpoint}' is not HOST or HOST:BASE_PORT; e.g. 'gpu-1.example:7101'",
            reason="INVALID_ENDPOINT",
            metadata={"endpoint": endpoint},
        )
    return host, int(port)
