"""The services of an installation: the one list that the SDK, the command line and the servers share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """A service: its name, its default ports, and the scopes that its methods may require.

    http_port: of an OpenAI-compatible endpoint; 0: the service has none. operator_scopes: for the machine's owner; a
    token gets them only when they are named.
    """

    name: str
    port: int
    metrics_port: int
    http_port: int = 0
    scopes: tuple[str, ...]
    operator_scopes: tuple[str, ...] = ()

    @property
    def port_by_variable(self) -> dict[str, int]:
        """The default ports, by the environment variable that changes each."""
        prefix = f"LUTHIER_{self.name.upper()}"
        http = {f"{prefix}_HTTP_PORT": self.http_port} if self.http_port else {}
        return {f"{prefix}_PORT": self.port, f"{prefix}_METRICS_PORT": self.metrics_port, **http}


_SPECS = (
    ServiceSpec(name="curation", port=7101, metrics_port=7201, scopes=("curation.read", "curation.write")),
    ServiceSpec(
        name="trainer",
        port=7102,
        metrics_port=7202,
        scopes=("trainer.read", "trainer.write"),
        operator_scopes=("models.write",),
    ),
    ServiceSpec(
        name="evaluator",
        port=7103,
        metrics_port=7203,
        scopes=("evaluator.read", "evaluator.write", "evaluator.rate"),
    ),
    ServiceSpec(
        name="inference",
        port=7104,
        metrics_port=7204,
        http_port=7180,
        scopes=("inference.generate", "inference.evaluate", "inference.deploy"),
        operator_scopes=("inference.admin",),
    ),
)

SERVICES = {spec.name: spec for spec in _SPECS}
INSTALLATION_SCOPES = ("storage.admin",)
"""Operator's scopes for methods that every service has."""
SCOPES = (*(scope for spec in _SPECS for scope in (*spec.scopes, *spec.operator_scopes)), *INSTALLATION_SCOPES)
OPERATOR_SCOPES = frozenset({*(scope for spec in _SPECS for scope in spec.operator_scopes), *INSTALLATION_SCOPES})
