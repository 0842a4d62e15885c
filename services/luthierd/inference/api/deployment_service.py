"""The services of deployments, the engine and tenants' quotas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.inference.v1 import (
    deployment_pb2,
    deployment_service_pb2_grpc,
    engine_service_pb2_grpc,
    quota_pb2,
    tenant_service_pb2_grpc,
)
from luthier.inference.v1 import deployment_service_pb2 as pb
from luthier.inference.v1 import engine_service_pb2 as engine_pb
from luthier.inference.v1 import tenant_service_pb2 as tenant_pb

from luthierd.errors import InvalidArgumentError, LuthierError
from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.admission.admission import Admission
from luthierd.inference.admission.quotas import REQUESTS, TOKENS, Quotas
from luthierd.inference.api.completion_wire import DOMAIN
from luthierd.inference.completions.leases import Models
from luthierd.inference.deployments.deployments import Deployments
from luthierd.inference.domain.deployment import MAX_SHARE_WEIGHT, AdapterRevision, Deployment
from luthierd.inference.domain.engine import LoadedAdapterState
from luthierd.inference.domain.errors import BaseModelServedError
from luthierd.inference.domain.quota import LIMIT_NAMES, Quota
from luthierd.inference.engine.host import DRAIN_S, EngineHost
from luthierd.names import ADAPTER_REVISION, BASE_MODEL, DEPLOYMENT, QUOTA, TENANT
from luthierd.paging import PageRequest
from luthierd.rpc.contract import Context
from luthierd.rpc.status import status_of
from luthierd.rpc.wire import duration, page_to_proto, to_proto

MIN_WEIGHT, MAX_WEIGHT = 0.01, 100.0
MAX_DRAIN_S = 600.0
MAX_LIMIT = 10**15
"""A double, as which limits are stored, holds every integer up to there."""


class DeploymentServicer(deployment_service_pb2_grpc.DeploymentServiceServicer):
    """Changes what is served."""

    def __init__(self, deployments: Deployments, loaded_adapters: LoadedAdapters) -> None:
        self._deployments, self._loaded_adapters = deployments, loaded_adapters

    async def DeployAdapter(self, request: pb.DeployAdapterRequest, context: Context) -> pb.DeployAdapterResponse:
        DEPLOYMENT.parse(request.name)
        ADAPTER_REVISION.parse(request.adapter_revision, field="adapter_revision")
        deployment = await self._deployments.deploy(
            request.name, request.adapter_revision, stage_only=request.stage_only, etag=request.etag
        )
        return pb.DeployAdapterResponse(deployment=self._to_proto(deployment))

    async def PromoteDeployment(
        self, request: pb.PromoteDeploymentRequest, context: Context
    ) -> pb.PromoteDeploymentResponse:
        DEPLOYMENT.parse(request.name)
        deployment = await self._deployments.promote(request.name, etag=request.etag)
        return pb.PromoteDeploymentResponse(deployment=self._to_proto(deployment))

    async def RollbackDeployment(
        self, request: pb.RollbackDeploymentRequest, context: Context
    ) -> pb.RollbackDeploymentResponse:
        DEPLOYMENT.parse(request.name)
        deployment = await self._deployments.roll_back(request.name, etag=request.etag)
        return pb.RollbackDeploymentResponse(deployment=self._to_proto(deployment))

    async def DeleteDeployment(
        self, request: pb.DeleteDeploymentRequest, context: Context
    ) -> pb.DeleteDeploymentResponse:
        DEPLOYMENT.parse(request.name)
        await self._deployments.delete(request.name, etag=request.etag)
        return pb.DeleteDeploymentResponse()

    async def SetTraffic(self, request: pb.SetTrafficRequest, context: Context) -> pb.SetTrafficResponse:
        DEPLOYMENT.parse(request.name)
        if request.mirror_revision:
            ADAPTER_REVISION.parse(request.mirror_revision, field="mirror_revision")
        weights, mirror = _weights_from_proto(request.traffic), request.mirror_revision
        deployment = await self._deployments.set_traffic(
            request.name, weights, mirror_revision=mirror, etag=request.etag
        )
        return pb.SetTrafficResponse(deployment=self._to_proto(deployment))

    async def PinDeployment(self, request: pb.PinDeploymentRequest, context: Context) -> pb.PinDeploymentResponse:
        DEPLOYMENT.parse(request.name)
        deployment = await self._deployments.pin(request.name, is_pinned=request.pinned, etag=request.etag)
        return pb.PinDeploymentResponse(deployment=self._to_proto(deployment))

    async def PrefetchDeployment(
        self, request: pb.PrefetchDeploymentRequest, context: Context
    ) -> pb.PrefetchDeploymentResponse:
        DEPLOYMENT.parse(request.name)
        deployment = await self._deployments.prefetch(request.name)
        return pb.PrefetchDeploymentResponse(deployment=self._to_proto(deployment))

    async def GetDeployment(self, request: pb.GetDeploymentRequest, context: Context) -> pb.GetDeploymentResponse:
        DEPLOYMENT.parse(request.name)
        return pb.GetDeploymentResponse(deployment=self._to_proto(self._deployments.get(request.name)))

    async def ListDeployments(self, request: pb.ListDeploymentsRequest, context: Context) -> pb.ListDeploymentsResponse:
        TENANT.parse(request.parent, field="parent")
        page = PageRequest.parse(request.page_size, request.page_token, request.parent)
        return page_to_proto(pb.ListDeploymentsResponse, self._deployments.list(request.parent, page), self._to_proto)

    def _to_proto(self, deployment: Deployment) -> deployment_pb2.Deployment:
        """A deployment with the current state of its loaded adapters."""
        held = {revision.sha256: revision.name for revision in reversed(deployment.held)}
        return to_proto(
            deployment_pb2.Deployment,
            deployment,
            live=self._loaded_to_proto(deployment.live),
            candidate=self._loaded_to_proto(deployment.candidate),
            previous=self._loaded_to_proto(deployment.previous),
            pinned=deployment.is_pinned,
            traffic=[
                deployment_pb2.TrafficShare(adapter_revision=held.get(share.sha256, ""), weight=share.weight)
                for share in deployment.shares
            ],
            mirror_revision=held.get(deployment.mirror_sha256, ""),
        )

    def _loaded_to_proto(self, revision: AdapterRevision | None) -> deployment_pb2.LoadedAdapter | None:
        if revision is None:
            return None
        loaded = self._loaded_adapters.get(revision)
        check = loaded.parity_check if loaded else None
        return to_proto(
            deployment_pb2.LoadedAdapter,
            loaded,
            id=revision.loaded_adapter,
            adapter_revision=revision.name,
            adapter_sha256=revision.sha256,
            base_model=revision.base_model.name,
            state=loaded.state if loaded else LoadedAdapterState.COLD,
            error=_status(loaded.error if loaded else None),
            certificate=check and check.certificate,
            load_stages=[
                deployment_pb2.LoadStage(name=stage.name, duration=duration(stage.duration_s))
                for stage in (check.stages if check else ())
            ],
        )


class EngineServicer(engine_service_pb2_grpc.EngineServiceServicer):
    """Starts and shows the engine."""

    def __init__(
        self, host: EngineHost, models: Models, loaded_adapters: LoadedAdapters, deployments: Deployments
    ) -> None:
        self._host, self._models = host, models
        self._loaded_adapters, self._deployments = loaded_adapters, deployments

    async def StartEngine(
        self, request: engine_pb.StartEngineRequest, context: Context
    ) -> engine_pb.StartEngineResponse:
        BASE_MODEL.parse(request.base_model, field="base_model")
        drain_s = _drain_s(request)
        base_model = await self._models.base_model(request.base_model)
        if not request.force and (needing := self._deployments.on_other_base_models(base_model)):
            raise BaseModelServedError(base_model.name, needing)
        await self._host.use(base_model, drain_s=drain_s)
        return engine_pb.StartEngineResponse(engine=self._to_proto())

    async def GetEngine(self, request: engine_pb.GetEngineRequest, context: Context) -> engine_pb.GetEngineResponse:
        return engine_pb.GetEngineResponse(engine=self._to_proto())

    def _to_proto(self) -> engine_pb.Engine:
        status = self._host.status
        return to_proto(
            engine_pb.Engine,
            status,
            base_model=status.base_model.name if status.base_model else "",
            base_model_sha256=status.base_model.sha256 if status.base_model else "",
            error=_status(status.error),
            loaded_adapter_count=self._loaded_adapters.loaded_count,
        )


class TenantServicer(tenant_service_pb2_grpc.TenantServiceServicer):
    """Shows and changes the quotas of tenants."""

    def __init__(self, quotas: Quotas, admission: Admission, deployments: Deployments) -> None:
        self._quotas, self._admission, self._deployments = quotas, admission, deployments

    async def GetQuota(self, request: tenant_pb.GetQuotaRequest, context: Context) -> tenant_pb.GetQuotaResponse:
        QUOTA.parse(request.name)
        return tenant_pb.GetQuotaResponse(quota=self._to_proto(self._quotas.get(request.name)))

    async def ListQuotas(self, request: tenant_pb.ListQuotasRequest, context: Context) -> tenant_pb.ListQuotasResponse:
        page = PageRequest.parse(request.page_size, request.page_token)
        found = self._quotas.list(page, tenants=self._deployments.tenants())
        return page_to_proto(tenant_pb.ListQuotasResponse, found, self._to_proto)

    async def UpdateQuota(
        self, request: tenant_pb.UpdateQuotaRequest, context: Context
    ) -> tenant_pb.UpdateQuotaResponse:
        QUOTA.parse(request.name)
        quota = await self._quotas.update(request.name, _quota_changes_from_proto(request), etag=request.etag)
        return tenant_pb.UpdateQuotaResponse(quota=self._to_proto(quota))

    def _to_proto(self, quota: Quota) -> quota_pb2.Quota:
        (tenant,) = QUOTA.parse(quota.name)
        load = self._admission.load(tenant)
        usage = quota_pb2.QuotaUsage(
            requests_in_minute=self._quotas.used(tenant, REQUESTS),
            tokens_in_minute=self._quotas.used(tenant, TOKENS),
            running_requests=load.running_count,
            waiting_requests=load.waiting_count,
            deployed_adapters=len(self._deployments.deployed_adapters(TENANT.format(tenant))),
        )
        return to_proto(
            quota_pb2.Quota,
            quota,
            limits=quota_pb2.QuotaLimits(**quota.own_limits),
            effective_limits=self._quotas.limits(tenant),
            usage=usage,
            update_time=quota.update_time if quota.change else None,
            replica_count=self._quotas.replica_count,
        )


def _drain_s(request: engine_pb.StartEngineRequest) -> float:
    """InvalidArgumentError for a time out of range."""
    if not request.HasField("drain_timeout"):
        return DRAIN_S
    drain_s = request.drain_timeout.seconds + request.drain_timeout.nanos / 1e9
    if not 0 <= drain_s <= MAX_DRAIN_S:
        raise InvalidArgumentError.of_field("drain_timeout", f"{drain_s:g} s is not from 0 to {MAX_DRAIN_S:g} s")
    return drain_s


def _status(error: LuthierError | None) -> Any:
    return error and status_of(error, DOMAIN)


def _weights_from_proto(shares: Sequence[deployment_pb2.TrafficShare]) -> dict[str, int]:
    """Weights by adapter revision. InvalidArgumentError names the invalid share."""
    weights: dict[str, int] = {}
    for index, share in enumerate(shares):
        field = f"traffic[{index}]"
        ADAPTER_REVISION.parse(share.adapter_revision, field=f"{field}.adapter_revision")
        if share.adapter_revision in weights:
            raise InvalidArgumentError.of_field(field, f"{share.adapter_revision} has a share already")
        if not 0 <= share.weight <= MAX_SHARE_WEIGHT:
            raise InvalidArgumentError.of_field(
                f"{field}.weight", f"{share.weight} is not from 0 to {MAX_SHARE_WEIGHT}"
            )
        weights[share.adapter_revision] = share.weight
    if weights and not any(weights.values()):
        raise InvalidArgumentError.of_field("traffic", "at least one weight must be above 0")
    return weights


def _quota_changes_from_proto(request: tenant_pb.UpdateQuotaRequest) -> Mapping[str, float | None]:
    """The limits to set by name; None resets to the default. InvalidArgumentError for a value out of range."""
    given = {field.name: float(value) for field, value in request.limits.ListFields()}
    for name, value in given.items():
        if name == "weight" and not MIN_WEIGHT <= value <= MAX_WEIGHT:
            raise InvalidArgumentError.of_field("limits.weight", f"{value} is not from {MIN_WEIGHT} to {MAX_WEIGHT:g}")
        if not 0 <= value <= MAX_LIMIT:
            raise InvalidArgumentError.of_field(
                f"limits.{name}", f"{value:g} is not from 0 (no limit) to {MAX_LIMIT:g}"
            )
    for path in request.update_mask.paths:
        if path not in LIMIT_NAMES:
            raise InvalidArgumentError.of_field("update_mask", f"{path!r}: choose one of {', '.join(LIMIT_NAMES)}")
    changes = {name: given.get(name) for name in request.update_mask.paths or given}
    if not changes:
        raise InvalidArgumentError.of_field("limits", f"set at least one of {', '.join(LIMIT_NAMES)}")
    return changes
