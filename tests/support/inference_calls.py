"""Calls of the inference service as the contract tests make them: short, with a token and a deadline."""

from __future__ import annotations

import grpc
import pytest
from luthier.inference.v1 import deployment_pb2, inference_service_pb2
from luthier.inference.v1 import deployment_service_pb2 as deployment_api
from luthier.inference.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from luthier.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from luthierd.config import ServerConfig

from support.inference_fakes import TIMEOUT_S, revision
from support.inference_parts import Parts
from support.serving import bearer, error_info

SUPPORT = "tenants/acme/deployments/support"
R1, R2 = revision("r1"), revision("r2")
OF_BETA = revision("r1", tenant="beta")
CONFIG = ServerConfig()


def ask(target: str = SUPPORT, **fields: object) -> inference_service_pb2.GenerateRequest:
    """A request that asks `target`."""
    kind = (
        "base_model"
        if target.startswith("baseModels")
        else "deployment"
        if "/deployments/" in target
        else "adapter_revision"
    )
    asked = inference_service_pb2.Target(**{kind: target})
    return inference_service_pb2.GenerateRequest(**({"target": asked, "prompt": "who are you?"} | fields))


async def generate(
    channel: grpc.aio.Channel, request: inference_service_pb2.GenerateRequest | None = None, tenant: str = "acme"
) -> inference_service_pb2.GenerateResponse:
    """One answer."""
    return await InferenceServiceStub(channel).Generate(request or ask(), metadata=bearer(tenant), timeout=TIMEOUT_S)


async def deploy(
    channel: grpc.aio.Channel, adapter_revision: str, *, name: str = SUPPORT, tenant: str = "acme", **fields: object
) -> deployment_pb2.Deployment:
    """Deploys and returns the deployment."""
    request = deployment_api.DeployAdapterRequest(name=name, adapter_revision=adapter_revision, **fields)
    response = await DeploymentServiceStub(channel).DeployAdapter(request, metadata=bearer(tenant), timeout=TIMEOUT_S)
    return response.deployment


async def refusal(call: object) -> tuple[grpc.StatusCode, str]:
    """Status and reason of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value.code(), error_info(caught.value).reason


def state_of(parts: Parts) -> str:
    """The engine's state."""
    return parts.host.status.state.value
