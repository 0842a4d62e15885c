"""Proto <-> domain, both ways. Requests are checked here, once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from luthier.inference.v1 import deployment_pb2, engine_service_pb2, inference_service_pb2
from luthier.trainer.v1 import base_model_pb2

from luthierd.errors import InvalidArgumentError
from luthierd.inference import domain
from luthierd.inference.engine_host import EngineStatus
from luthierd.inference.generations import Generation, Generations
from luthierd.names import ADAPTER_REVISION, BASE_MODEL, DEPLOYMENT
from luthierd.rpc.status import status_of

DOMAIN = "inference.luthier.dev"
ROLES = ("system", "user", "assistant")
MAX_STOPS = 8
MAX_SEED = 2**63 - 1

_PATTERNS = {
    domain.Target.DEPLOYMENT: DEPLOYMENT,
    domain.Target.BASE_MODEL: BASE_MODEL,
    domain.Target.ADAPTER_REVISION: ADAPTER_REVISION,
}


def target_from_proto(target: inference_service_pb2.Target) -> domain.Target:
    """InvalidArgumentError for none, or a name that does not parse."""
    kind = target.WhichOneof("target")
    if kind is None:
        raise InvalidArgumentError.of_field("target", "name a deployment, a base model or an adapter revision")
    name = getattr(target, kind)
    _PATTERNS[kind].parse(name, field=f"target.{kind}")
    return domain.Target(kind, name)


def sampling_from_proto(sampling: inference_service_pb2.Sampling) -> domain.Sampling:
    """InvalidArgumentError names the field that is out of its range."""
    default = domain.Sampling()
    max_tokens = sampling.max_tokens if sampling.HasField("max_tokens") else default.max_tokens
    temperature = sampling.temperature if sampling.HasField("temperature") else default.temperature
    top_p = sampling.top_p if sampling.HasField("top_p") else default.top_p
    if max_tokens < 1:
        raise InvalidArgumentError.of_field("sampling.max_tokens", f"{max_tokens} is not 1 or more")
    if not (math.isfinite(temperature) and 0 <= temperature <= 10):
        raise InvalidArgumentError.of_field("sampling.temperature", f"{temperature} is not from 0 to 10")
    if not 0 < top_p <= 1:
        raise InvalidArgumentError.of_field("sampling.top_p", f"{top_p} is not above 0 and at most 1")
    if len(sampling.stop) > MAX_STOPS or not all(sampling.stop):
        raise InvalidArgumentError.of_field("sampling.stop", f"at most {MAX_STOPS} texts, none of them empty")
    if sampling.HasField("seed") and sampling.seed < 0:
        raise InvalidArgumentError.of_field("sampling.seed", f"{sampling.seed} is negative")
    return domain.Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=sampling.seed if sampling.HasField("seed") else None,
        stop=tuple(sampling.stop),
    )


def is_ready(model: base_model_pb2.BaseModel) -> bool:
    """The trainer has imported it completely."""
    return model.state == base_model_pb2.BASE_MODEL_STATE_READY


def prompt_from_proto(prompt: str) -> str:
    """InvalidArgumentError for an empty one."""
    if not prompt:
        raise InvalidArgumentError.of_field("prompt", "it is empty")
    return prompt


def turns_from_proto(messages: Sequence[inference_service_pb2.Message]) -> tuple[domain.Turn, ...]:
    """InvalidArgumentError for no messages, an unknown role, or a last message that is not the user's."""
    if not messages:
        raise InvalidArgumentError.of_field("messages", "the conversation is empty")
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise InvalidArgumentError.of_field(
                f"messages[{index}].role", f"{message.role!r} is not one of {', '.join(ROLES)}"
            )
    if messages[-1].role != "user":
        raise InvalidArgumentError.of_field("messages", "the last message must be the user's")
    return tuple(domain.Turn(message.role, message.content) for message in messages)


def origin_to_proto(origin: domain.Origin) -> inference_service_pb2.Origin:
    """Who answered."""
    return inference_service_pb2.Origin(
        generation=origin.generation,
        deployment_revision=origin.deployment_revision,
        adapter_revision=origin.adapter_revision,
        base_model=origin.base_model,
    )


def finish_to_proto(finish: domain.Finish) -> inference_service_pb2.Finish:
    """How an answer came about."""
    return inference_service_pb2.Finish(
        finish_reason=finish.reason,
        prompt_token_count=finish.prompt_token_count,
        completion_token_count=finish.completion_token_count,
        ttft_ms=finish.ttft_ms,
        latency_ms=finish.latency_ms,
    )


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
