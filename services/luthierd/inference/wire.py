"""Proto <-> domain of deployments and of the engine."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from luthier.inference.v1 import deployment_pb2, engine_service_pb2
from luthier.trainer.v1 import base_model_pb2

from luthierd.inference import domain
from luthierd.inference.engine_host import EngineStatus
from luthierd.inference.generations import Generation, Generations
from luthierd.rpc.status import status_of

DOMAIN = "inference.luthier.dev"


def is_ready(model: base_model_pb2.BaseModel) -> bool:
    """The trainer has imported it completely."""
    return model.state == base_model_pb2.BASE_MODEL_STATE_READY


def deployment_to_proto(deployment: domain.Deployment, generations: Generations) -> deployment_pb2.Deployment:
    """A deployment with what its generations do in the engine now."""
    message = deployment_pb2.Deployment(
        name=deployment.name,
        create_time=_time(deployment.create_time),
        update_time=_time(deployment.update_time),
        etag=deployment.etag,
        revision=deployment.revision,
    )
    for field in ("live", "candidate", "previous"):
        revision: domain.AdapterRevision | None = getattr(deployment, field)
        if revision is not None:
            getattr(message, field).CopyFrom(generation_to_proto(revision, generations.get(revision)))
    return message


def generation_to_proto(revision: domain.AdapterRevision, generation: Generation | None) -> deployment_pb2.Generation:
    """A revision in the engine; LOADING while the engine does not have it yet."""
    state = generation.state if generation else domain.GenerationState.LOADING
    message = deployment_pb2.Generation(
        generation=revision.generation,
        adapter_revision=revision.name,
        adapter_sha256=revision.sha256,
        base_model=revision.base_model.name,
        state=deployment_pb2.GenerationState.Value(f"GENERATION_STATE_{state.value}"),
        lease_count=generation.lease_count if generation else 0,
    )
    if generation is not None and generation.error is not None:
        message.error.CopyFrom(status_of(generation.error, DOMAIN))
    return message


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


def _time(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(int(seconds * 1e6))
    return stamp
