"""Errors of the inference service, each with its own reason (docs/errors.md)."""

from __future__ import annotations

from collections.abc import Sequence

from luthierd import errors

ENGINE_RETRY_AFTER_S = 10.0
"""What a start of the engine takes at best."""


class DeploymentNotFoundError(errors.NotFoundError):
    """No such deployment."""

    reason = "DEPLOYMENT_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no deployment {name}; `luthier deploy` makes one, `luthier deployments` lists them",
            metadata={"deployment": name},
        )


class EtagMismatchError(errors.AbortedError):
    """The deployment or quota changed since the caller read it."""

    reason = "ETAG_MISMATCH"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was changed by somebody else; read it again, then repeat", metadata={"name": name})


class NoCandidateError(errors.FailedPreconditionError):
    """Nothing is staged."""

    reason = "NO_CANDIDATE"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has no candidate; deploy one with stage_only first", metadata={"deployment": name})


class NoPreviousError(errors.FailedPreconditionError):
    """There is nothing to roll back to."""

    reason = "NO_PREVIOUS_REVISION"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} has no previous loaded adapter to roll back to; deploy the wanted revision instead",
            metadata={"deployment": name},
        )


class RevisionNotHeldError(errors.FailedPreconditionError):
    """Traffic for a revision that the deployment does not hold."""

    reason = "REVISION_NOT_HELD"

    def __init__(self, name: str, revision: str) -> None:
        super().__init__(
            f"{name} does not hold {revision}; it can be its live, candidate or previous revision: deploy it with "
            "stage_only first",
            metadata={"deployment": name, "revision": revision},
        )


class OtherBaseModelError(errors.FailedPreconditionError):
    """The engine holds another base model."""

    reason = "ENGINE_HOLDS_OTHER_BASE_MODEL"

    def __init__(self, *, wanted: str, wanted_sha256: str, held: str, held_sha256: str) -> None:
        super().__init__(
            f"the engine of this server holds {held} ({held_sha256[:12]}), not {wanted} ({wanted_sha256[:12]}); "
            "use another adapter, or another server",
            metadata={"wanted": wanted, "wanted_sha256": wanted_sha256, "held": held, "held_sha256": held_sha256},
        )


class DeployFailedError(errors.FailedPreconditionError):
    """An adapter revision did not get through a stage; the deployment is as it was."""

    reason = "DEPLOY_FAILED"

    def __init__(self, adapter_revision: str, stage: str, cause: errors.LuthierError) -> None:
        super().__init__(
            f"{adapter_revision} failed at stage {stage}: {cause}; nothing was changed",
            metadata={**cause.metadata, "adapter_revision": adapter_revision, "stage": stage, "cause": cause.reason},
        )


class AdapterInvalidError(errors.FailedPreconditionError):
    """The files of an adapter revision are not what this engine can serve."""

    reason = "ADAPTER_INVALID"


class AdapterFileForbiddenError(AdapterInvalidError):
    """A file of a kind that may run code when it is read."""

    reason = "ADAPTER_FILE_FORBIDDEN"


class AdapterTooLargeError(AdapterInvalidError):
    """More bytes than the limit."""

    reason = "ADAPTER_TOO_LARGE"


class AdapterRankTooLargeError(AdapterInvalidError):
    """A rank beyond the engine's."""

    reason = "ADAPTER_RANK_TOO_LARGE"


class AdapterTruncatedError(AdapterInvalidError):
    """The weights' file ends before its last number."""

    reason = "ADAPTER_TRUNCATED"


class AdapterNotFiniteError(AdapterInvalidError):
    """NaN or infinity in the weights."""

    reason = "ADAPTER_NOT_FINITE"


class AdapterOtherBaseError(AdapterInvalidError):
    """Trained with another base model, tokenizer or chat template than the engine has."""

    reason = "ADAPTER_OF_OTHER_BASE"


class AdapterModuleUnknownError(AdapterInvalidError):
    """Weights for a module that the base model does not have, or has in another shape."""

    reason = "ADAPTER_MODULE_UNKNOWN"


class AdapterHasNoEffectError(errors.FailedPreconditionError):
    """The engine loaded the adapter, and answers as if it had not."""

    reason = "ADAPTER_HAS_NO_EFFECT"


class AdapterDeviatesError(errors.FailedPreconditionError):
    """The engine's log-probabilities are not those of the training."""

    reason = "ADAPTER_DEVIATES_FROM_REFERENCE"


class AdapterSlotsFullError(errors.ResourceExhaustedError):
    """Every place for an adapter is pinned."""

    reason = "ADAPTER_SLOTS_FULL"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"all {limit} places for adapters are pinned; unpin one, or raise LUTHIER_INFERENCE_MAX_CPU_LORAS",
            metadata={"limit": str(limit)},
            retry_after_s=5.0,
        )


class AdapterPlacesPinnedError(errors.ResourceExhaustedError):
    """Pinned adapters would leave no place for the others."""

    reason = "ADAPTER_PLACES_PINNED"

    def __init__(self, name: str, *, wanted: int, limit: int) -> None:
        super().__init__(
            f"with {name} {wanted} adapters would be pinned, and {limit} may be; unpin a deployment, or raise "
            "LUTHIER_INFERENCE_MAX_CPU_LORAS",
            metadata={"deployment": name, "wanted": str(wanted), "limit": str(limit)},
            retry_after_s=60.0,
        )


class EngineUnavailableError(errors.UnavailableError):
    """The engine is starting again, or could not."""

    reason = "ENGINE_UNAVAILABLE"


class EngineDiedError(EngineUnavailableError):
    """The engine's process is gone. Raised by engines in `generate` and the like."""

    reason = "ENGINE_DIED"

    def __init__(self) -> None:
        super().__init__(
            "the engine's process died; it is being started again, repeat the call in some seconds",
            retry_after_s=ENGINE_RETRY_AFTER_S,
        )


class EngineStartError(errors.FailedPreconditionError):
    """The engine does not start on this base model or machine."""

    reason = "ENGINE_START_FAILED"


class EmbedUnsupportedError(errors.FailedPreconditionError):
    """The engine makes no vectors."""

    reason = "ENGINE_CANNOT_EMBED"

    def __init__(self, version: str) -> None:
        super().__init__(
            f"this server's engine, {version}, answers but does not embed; ask a server whose engine is transformers",
            metadata={"engine": version},
        )


class StructureUnsupportedError(errors.FailedPreconditionError):
    """The engine cannot hold an answer to a schema, a regular expression or a grammar."""

    reason = "ENGINE_CANNOT_STRUCTURE"

    def __init__(self, version: str, field: str) -> None:
        super().__init__(
            f"this server's engine, {version}, makes free text only; leave out {field}, or ask a server whose engine "
            "is vLLM",
            metadata={"engine": version, "field": field},
        )


class HttpUnsupportedError(errors.FailedPreconditionError):
    """The engine has no OpenAI application."""

    reason = "ENGINE_SERVES_NO_HTTP"

    def __init__(self, version: str) -> None:
        super().__init__(
            f"the OpenAI protocol is not served by this server's engine, {version}; call over gRPC, or run the server "
            "with LUTHIER_INFERENCE_ENGINE=vllm",
            metadata={"engine": version},
        )


class ReplicaRefusedError(errors.FailedPreconditionError):
    """Another replica of this server could not prove an adapter revision; the deployment is as it was."""

    reason = "REPLICA_REFUSED"

    def __init__(self, replica: str, adapter_revision: str, *, cause: str, message: str) -> None:
        super().__init__(
            f"replica {replica} cannot serve {adapter_revision}: {message}; nothing was changed",
            metadata={"replica": replica, "adapter_revision": adapter_revision, "cause": cause},
        )


class ReplicasTooSlowError(errors.UnavailableError):
    """Live replicas did not prove a revision in the time that they have; the deployment is as it was."""

    reason = "REPLICAS_TOO_SLOW"

    def __init__(self, replicas: Sequence[str], *, limit_s: float) -> None:
        super().__init__(
            f"{', '.join(replicas)} did not prove the revision within {limit_s:g} s; nothing was changed, repeat the "
            "call, or look at those replicas",
            metadata={"replicas": ",".join(replicas), "limit_s": f"{limit_s:g}"},
            retry_after_s=5.0,
        )


class ReplicaLeaseLostError(errors.UnavailableError):
    """The replica that was asked for a change does not count as live; the deployment is as it was."""

    reason = "REPLICA_LEASE_LOST"

    def __init__(self, replica: str) -> None:
        super().__init__(
            f"the lease of replica {replica} ran out during the change; nothing was changed, repeat the call",
            metadata={"replica": replica},
            retry_after_s=1.0,
        )


class SharedStateUnreachableError(errors.UnavailableError):
    """The database that replicas share does not answer."""

    reason = "SHARED_STATE_UNREACHABLE"

    def __init__(self, error: str) -> None:
        super().__init__(
            f"the database of the desired state does not answer ({error}); answers go on, changes must wait",
            metadata={"error": error},
            retry_after_s=2.0,
        )


class PromptTooLongError(errors.InvalidArgumentError):
    """The prompt leaves no room for an answer."""

    reason = "PROMPT_TOO_LONG"

    def __init__(self, token_count: int, window: int) -> None:
        super().__init__(
            f"the prompt has {token_count} tokens, and the model's window of {window} needs room for an answer",
            metadata={"token_count": str(token_count), "window": str(window)},
            violations=[errors.FieldViolation("prompt", f"at most {window - 1} tokens")],
        )


class ReaderTooSlowError(errors.AbortedError):
    """The caller of a stream does not read what was answered."""

    reason = "READER_TOO_SLOW"

    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"nothing of the stream was read for {limit_s:.0f} s, so the answer was given up; read it as it comes, or "
            "ask for a whole answer",
            metadata={"limit_s": f"{limit_s:.0f}"},
        )


class QueueFullError(errors.ResourceExhaustedError):
    """Too many requests wait or run."""

    reason = "QUEUE_FULL"

    def __init__(self, limit: int, *, retry_after_s: float = 1.0) -> None:
        super().__init__(
            f"{limit} requests are in flight, as many as this server takes; try again in {retry_after_s:.1f} s",
            metadata={"limit": str(limit), "retry_after_s": f"{retry_after_s:.1f}"},
            retry_after_s=retry_after_s,
        )


class TenantQueueFullError(errors.ResourceExhaustedError):
    """Too many requests of one tenant wait or run."""

    reason = "TENANT_QUEUE_FULL"

    def __init__(self, tenant: str, limit: int, *, retry_after_s: float) -> None:
        super().__init__(
            f"tenant {tenant} has {limit} requests in flight, as many as this server takes of one tenant; "
            f"try again in {retry_after_s:.1f} s",
            metadata={"tenant": tenant, "limit": str(limit), "retry_after_s": f"{retry_after_s:.1f}"},
            retry_after_s=retry_after_s,
        )


class QuotaExceededError(errors.ResourceExhaustedError):
    """The tenant's quota of requests, tokens or concurrent requests is used up for now."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, tenant: str, quota: str, limit: int, *, retry_after_s: float) -> None:
        super().__init__(
            f"tenant {tenant} has used up its quota of {limit} {quota.replace('_', ' ')}; try again in "
            f"{retry_after_s:.1f} s, or have an operator raise it (luthier quota set)",
            metadata={"tenant": tenant, "quota": quota, "limit": str(limit), "retry_after_s": f"{retry_after_s:.1f}"},
            retry_after_s=retry_after_s,
        )


class AdapterQuotaError(errors.ResourceExhaustedError):
    """The tenant has as many different adapters deployed as its quota allows."""

    reason = "ADAPTER_QUOTA_EXCEEDED"

    def __init__(self, tenant: str, limit: int) -> None:
        super().__init__(
            f"tenant {tenant} may have {limit} different adapters deployed; undeploy one first, or have an operator "
            "raise the quota (luthier quota set)",
            metadata={"tenant": tenant, "limit": str(limit)},
            retry_after_s=60.0,
        )
