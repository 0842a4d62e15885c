"""The files of deploy/: they parse, name settings that exist, and agree with each other."""

from __future__ import annotations

import configparser
import pathlib
from typing import Any

import pytest
import yaml
from luthierd import supervisor
from luthierd.config import load_config
from luthierd.inference.config import InferenceConfig
from luthierd.trainer.config import TrainerConfig

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
PORTS = {"grpc": 7104, "http": 7180}


def documents(path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / path).read_text()))


def kubernetes(kind: str, name: str) -> dict[str, Any]:
    """The one object of this kind and name."""
    resources = documents("kustomization.yaml")[0]["resources"]
    (found,) = [
        one for path in resources for one in documents(path) if (one["kind"], one["metadata"]["name"]) == (kind, name)
    ]
    return found


def test_the_settings_in_compose_are_settings() -> None:
    services = documents("compose/compose.yaml")[0]["services"]
    inference = load_config(InferenceConfig, "inference", environment=services["inference"]["environment"])
    trainer = load_config(TrainerConfig, "trainer", environment=services["trainer"]["environment"])
    assert (inference.port, inference.http_port) == (PORTS["grpc"], PORTS["http"])
    assert inference.addresses["trainer"] == f"trainer:{trainer.port}"
    assert services["inference"]["deploy"]["replicas"] == 2
    assert inference.database_url == trainer.database_url
    assert inference.database_url.startswith("postgresql+asyncpg://")


def test_the_settings_in_kubernetes_are_settings_and_the_pods_are_those_that_the_service_names() -> None:
    deployment = kubernetes("Deployment", "inference")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    environment = {one["name"]: one.get("value", "given") for one in container["env"]}
    config = load_config(InferenceConfig, "inference", environment=environment)
    assert {one["name"]: one["containerPort"] for one in container["ports"]} == {
        "grpc": config.port,
        "http": config.http_port,
        "metrics": config.metrics_port,
    }
    assert config.drain_delay_s + config.grace_s < pod["spec"]["terminationGracePeriodSeconds"]
    service = kubernetes("Service", "inference")["spec"]
    assert service["selector"] == pod["metadata"]["labels"] == deployment["spec"]["selector"]["matchLabels"]
    assert {one["name"]: one["port"] for one in service["ports"]} == PORTS


def test_the_unit_of_systemd_runs_commands_that_the_supervisor_has() -> None:
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd/luthier.service")
    service = unit["Service"]
    assert float(service["TimeoutStopSec"]) > supervisor.STOP_TIMEOUT_S + supervisor.LOCK_WAIT_S
    for act, verb in (("ExecStart", "up --watch"), ("ExecStop", "down")):
        assert service[act].endswith(f"/python -m luthierd.supervisor {verb}")
        assert verb in supervisor.VERBS


@pytest.mark.parametrize(("listener", "protocol"), [("grpc", "grpc"), ("openai", "http")])
def test_envoy_hashes_by_target_then_by_token_onto_replicas_whose_health_it_asks(listener: str, protocol: str) -> None:
    resources = documents("envoy/envoy.yaml")[0]["static_resources"]
    (found,) = [one for one in resources["listeners"] if one["name"] == listener]
    assert found["address"]["socket_address"]["port_value"] == PORTS[protocol]
    manager = found["filter_chains"][0]["filters"][0]["typed_config"]
    route = manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
    headers = [policy["header"]["header_name"] for policy in route["hash_policy"]]
    assert headers == ["x-luthier-target", "authorization"]
    assert route["hash_policy"][0]["terminal"]
    (cluster,) = [one for one in resources["clusters"] if one["name"] == route["cluster"]]
    assert cluster["lb_policy"] == "RING_HASH"
    assert f"{protocol}_health_check" in cluster["health_checks"][0]
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert endpoint == {"address": "inference", "port_value": PORTS[protocol]}
    assert kubernetes("Service", "inference")["metadata"]["name"] == endpoint["address"]
