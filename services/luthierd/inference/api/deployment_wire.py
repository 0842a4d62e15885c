"""Proto <-> domain of deployments and of the engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from luthier.inference.v1 import deployment_pb2, engine_service_pb2, quota_pb2, tenant_service_pb2
from luthier.trainer.v1 import base_model_pb2

from luthierd.errors import InvalidArgumentError
from luthierd.inference.adapters.loaded_adapter import LoadedAdapter
from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.domain.deployment import MAX_SHARE_WEIGHT, AdapterRevision, Deployment
from luthierd.inference.domain.engine import LoadedAdapterState
from luthierd.inference.domain.parity import ParityCertificate
from luthierd.inference.domain.quota import LIMIT_NAMES, Limits, Quota
from luthierd.inference.engine.host import EngineStatus
from luthierd.names import ADAPTER_REVISION
from luthierd.rpc.status import status_of

DOMAIN = "inference.luthier.dev"
MIN_WEIGHT, MAX_WEIGHT = 0.01, 100.0


def is_ready(model: base_model_pb2.BaseModel) -> bool:
    """The trainer has imported it completely."""
    return model.state == base_model_pb2.BASE_MODEL_STATE_READY


def deployment_to_proto(deployment: Deployment, loaded_adapters: LoadedAdapters) -> deployment_pb2.Deployment:
    """A deployment with what its loaded adapters do in the engine now."""
    message = deployment_pb2.Deployment(
        name=deployment.name,
        create_time=timestamp(deployment.create_time),
        update_time=timestamp(deployment.update_time),
        etag=deployment.etag,
        revision=deployment.revision,
        pinned=deployment.is_pinned,
    )
    for field in ("live", "candidate", "previous"):
        revision: AdapterRevision | None = getattr(deployment, field)
        if revision is not None:
            getattr(message, field).CopyFrom(loaded_adapter_to_proto(revision, loaded_adapters.get(revision)))
    for share in deployment.shares:
        held = deployment.holding(share.sha256)
        message.traffic.add(adapter_revision=held.name if held else "", weight=share.weight)
    mirror = deployment.holding(deployment.mirror_sha256)
    message.mirror_revision = mirror.name if mirror else ""
    return message


def weights_from_proto(shares: Sequence[deployment_pb2.TrafficShare]) -> dict[str, int]:
    """Weights by adapter revision. InvalidArgumentError names the share that does not parse."""
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


def loaded_adapter_to_proto(
    revision: AdapterRevision, loaded_adapter: LoadedAdapter | None
) -> deployment_pb2.LoadedAdapter:
    """A revision and what the engine has of it."""
    state = loaded_adapter.state if loaded_adapter else LoadedAdapterState.COLD
    message = deployment_pb2.LoadedAdapter(
        id=revision.loaded_adapter,
        adapter_revision=revision.name,
        adapter_sha256=revision.sha256,
        base_model=revision.base_model.name,
        state=deployment_pb2.LoadedAdapterState.Value(f"LOADED_ADAPTER_STATE_{state.value}"),
        lease_count=loaded_adapter.lease_count if loaded_adapter else 0,
    )
    if loaded_adapter is not None and loaded_adapter.error is not None:
        message.error.CopyFrom(status_of(loaded_adapter.error, DOMAIN))
    if loaded_adapter is not None and loaded_adapter.proof is not None:
        message.certificate.CopyFrom(certificate_to_proto(loaded_adapter.proof.certificate))
        for stage in loaded_adapter.proof.stages:
            message.load_stages.add(name=stage.name).duration.FromMicroseconds(int(stage.duration_s * 1e6))
    return message


def certificate_to_proto(certificate: ParityCertificate) -> deployment_pb2.ParityCertificate:
    """The fields have the same names."""
    fields = dataclasses.asdict(certificate)
    return deployment_pb2.ParityCertificate(**fields | {"check_time": timestamp(certificate.check_time)})


def engine_to_proto(status: EngineStatus, *, loaded_adapter_count: int) -> engine_service_pb2.Engine:
    """The engine's state."""
    message = engine_service_pb2.Engine(
        state=engine_service_pb2.EngineState.Value(f"ENGINE_STATE_{status.state.value}"),
        version=status.version,
        loaded_adapter_count=loaded_adapter_count,
        start_count=status.start_count,
    )
    message.start_duration.FromMilliseconds(int(status.start_duration_s * 1000))
    if status.base_model is not None:
        message.base_model, message.base_model_sha256 = status.base_model.name, status.base_model.sha256
    if status.error is not None:
        message.error.CopyFrom(status_of(status.error, DOMAIN))
    return message


def quota_changes_from_proto(request: tenant_service_pb2.UpdateQuotaRequest) -> dict[str, float | None]:
    """The limits to set by name, None to go back to the default. InvalidArgumentError for one out of its range."""
    given = {field.name: float(value) for field, value in request.limits.ListFields()}
    for name, value in given.items():
        if name == "weight" and not MIN_WEIGHT <= value <= MAX_WEIGHT:
            raise InvalidArgumentError.of_field("limits.weight", f"{value} is not from {MIN_WEIGHT} to {MAX_WEIGHT:g}")
        if value < 0:
            raise InvalidArgumentError.of_field(f"limits.{name}", f"{value} is negative; 0 means no limit")
    for path in request.update_mask.paths:
        if path not in LIMIT_NAMES:
            raise InvalidArgumentError.of_field("update_mask", f"{path!r} is not one of {', '.join(LIMIT_NAMES)}")
    changes = {name: given.get(name) for name in request.update_mask.paths or given}
    if not changes:
        raise InvalidArgumentError.of_field("limits", f"set at least one of {', '.join(LIMIT_NAMES)}")
    return changes


def quota_to_proto(quota: Quota, limits: Limits, usage: quota_pb2.QuotaUsage) -> quota_pb2.Quota:
    """A quota with what holds and what is used."""
    message = quota_pb2.Quota(name=quota.name, etag=quota.etag, usage=usage)
    message.limits.SetInParent()
    for name in LIMIT_NAMES:
        setattr(message.effective_limits, name, getattr(limits, name))
        if name in quota.own:
            setattr(message.limits, name, type(getattr(limits, name))(quota.own[name]))
    if quota.change:
        message.update_time.CopyFrom(timestamp(quota.update_time))
    return message


def timestamp(seconds: float) -> Timestamp:
    """Seconds since 1970 as a proto."""
    stamp = Timestamp()
    stamp.FromMicroseconds(int(seconds * 1e6))
    return stamp
