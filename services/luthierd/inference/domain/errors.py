"""Errors of the inference service, each with its own reason (docs/errors.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from luthierd import errors

ENGINE_RETRY_AFTER_S = 10.0
"""The shortest start of the engine."""
MAX_SHOWN = 10
"""Names in an error's message."""


class _DescribedError(errors.LuthierError):
    """An error whose `message` is filled with the constructor's keywords; they are its metadata, too.

    `retry_s`: the default delay of errors that can be retried.
    """

    message: ClassVar[str]
    retry_s: ClassVar[float] = 1.0

    def __init__(self, **fields: object) -> None:
        retry: dict[str, Any] = {}
        if isinstance(self, errors.RetryableError):
            retry = {"retry_after_s": fields.get("retry_after_s", self.retry_s)}
        metadata = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in fields.items()}
        super().__init__(self.message.format(**fields), metadata=metadata, **retry)


class DeploymentNotFoundError(_DescribedError, errors.NotFoundError):
    """No such deployment."""

    reason = "DEPLOYMENT_NOT_FOUND"
    message = "there is no deployment {deployment}; `luthier deploy` makes one, `luthier deployments` lists them"


class EtagMismatchError(_DescribedError, errors.AbortedError):
    """The deployment, quota or policy changed since the caller read it."""

    reason = "ETAG_MISMATCH"
    message = "{name} was changed by another caller; read it again, then repeat"


class NoCandidateError(_DescribedError, errors.FailedPreconditionError):
    """Nothing is staged."""

    reason = "NO_CANDIDATE"
    message = "{deployment} has no candidate; deploy one with stage_only first"


class NoPreviousError(_DescribedError, errors.FailedPreconditionError):
    """There is nothing to roll back to."""

    reason = "NO_PREVIOUS_REVISION"
    message = "{deployment} has no previous revision to roll back to; deploy the wanted revision instead"


class RevisionNotHeldError(_DescribedError, errors.FailedPreconditionError):
    """Traffic for a revision that the deployment does not hold."""

    reason = "REVISION_NOT_HELD"
    message = (
        "{deployment} does not hold {revision}; only its live, candidate and previous revisions can get traffic: "
        "deploy it with stage_only first"
    )


class OtherBaseModelError(_DescribedError, errors.FailedPreconditionError):
    """The engine serves another base model."""

    reason = "ENGINE_HOLDS_OTHER_BASE_MODEL"
    message = (
        "this server's engine serves {held} ({held_sha256:.12}), not {wanted} ({wanted_sha256:.12}); an operator can "
        "change that with `luthier engine use`"
    )


class NoBaseModelError(_DescribedError, errors.FailedPreconditionError):
    """No base model was chosen yet."""

    reason = "ENGINE_HAS_NO_BASE_MODEL"
    message = "the engine has no base model yet, {wanted} cannot be served; an operator runs `luthier engine use`"


class BaseModelServedError(errors.FailedPreconditionError):
    """Deployments need the base model that is to be replaced."""

    reason = "BASE_MODEL_HAS_DEPLOYMENTS"

    def __init__(self, wanted: str, deployments: Sequence[str]) -> None:
        shown = ", ".join(deployments[:MAX_SHOWN]) + (", ..." if len(deployments) > MAX_SHOWN else "")
        super().__init__(
            f"{len(deployments)} deployments need another base model than {wanted} and would stop answering: {shown}; "
            "undeploy them, or change the base model with force",
            metadata={"base_model": wanted, "deployment_count": str(len(deployments)), "deployments": shown},
        )


class DeployFailedError(errors.FailedPreconditionError):
    """An adapter revision failed at a stage; the deployment is unchanged."""

    reason = "DEPLOY_FAILED"

    def __init__(self, adapter_revision: str, stage: str, cause: errors.LuthierError) -> None:
        super().__init__(
            f"{adapter_revision} failed at stage {stage}: {cause}; nothing was changed",
            metadata={**cause.metadata, "adapter_revision": adapter_revision, "stage": stage, "cause": cause.reason},
        )


class AdapterInvalidError(errors.FailedPreconditionError):
    """The engine cannot serve the files of the adapter revision."""

    reason = "ADAPTER_INVALID"


class AdapterFileForbiddenError(AdapterInvalidError):
    """A file of a type that can run code when it is read."""

    reason = "ADAPTER_FILE_FORBIDDEN"


class AdapterTooLargeError(AdapterInvalidError):
    """The adapter exceeds the size limit."""

    reason = "ADAPTER_TOO_LARGE"


class AdapterRankTooLargeError(AdapterInvalidError):
    """A rank above the engine's limit."""

    reason = "ADAPTER_RANK_TOO_LARGE"


class AdapterTruncatedError(AdapterInvalidError):
    """The file of weights does not have the size that its header says."""

    reason = "ADAPTER_TRUNCATED"


class AdapterNotFiniteError(AdapterInvalidError):
    """NaN or infinity in the weights."""

    reason = "ADAPTER_NOT_FINITE"


class AdapterOtherBaseError(AdapterInvalidError):
    """Trained with another base model, tokenizer or chat template than the engine uses."""

    reason = "ADAPTER_OF_OTHER_BASE"


class AdapterModuleUnknownError(AdapterInvalidError):
    """Weights for a module that the base model does not have, or has in another shape."""

    reason = "ADAPTER_MODULE_UNKNOWN"


class AdapterHasNoEffectError(errors.FailedPreconditionError):
    """With the adapter loaded, the engine answers as without it."""

    reason = "ADAPTER_HAS_NO_EFFECT"


class AdapterDeviatesError(errors.FailedPreconditionError):
    """The engine's log-probabilities differ from those of the training."""

    reason = "ADAPTER_DEVIATES_FROM_REFERENCE"


class AdapterSlotsFullError(_DescribedError, errors.ResourceExhaustedError):
    """Every place for an adapter is pinned."""

    reason = "ADAPTER_SLOTS_FULL"
    message = "all {limit} places for adapters are pinned; unpin one, or raise LUTHIER_INFERENCE_MAX_CPU_LORAS"
    retry_s = 5.0


class AdapterPlacesPinnedError(_DescribedError, errors.ResourceExhaustedError):
    """Pinned adapters would leave no place for the others."""

    reason = "ADAPTER_PLACES_PINNED"
    message = (
        "{deployment} would raise the number of pinned adapters to {wanted}, and the limit is {limit}; unpin a "
        "deployment, or raise LUTHIER_INFERENCE_MAX_CPU_LORAS"
    )
    retry_s = 60.0


class EngineUnavailableError(errors.UnavailableError):
    """The engine is starting again, or could not start."""

    reason = "ENGINE_UNAVAILABLE"


class EngineDiedError(EngineUnavailableError):
    """The engine's process is gone."""

    reason = "ENGINE_DIED"

    def __init__(self) -> None:
        super().__init__(
            "the engine's process died and is being restarted; repeat the call in some seconds",
            retry_after_s=ENGINE_RETRY_AFTER_S,
        )


class EngineStartError(errors.FailedPreconditionError):
    """The engine cannot start with this base model or on this machine."""

    reason = "ENGINE_START_FAILED"


class EmbedUnsupportedError(_DescribedError, errors.FailedPreconditionError):
    """The engine cannot compute embeddings."""

    reason = "ENGINE_CANNOT_EMBED"
    message = "this server's engine, {engine}, cannot embed; call a server whose engine is transformers"


class StructureUnsupportedError(_DescribedError, errors.FailedPreconditionError):
    """The engine cannot constrain an answer to a schema, a regular expression or a grammar."""

    reason = "ENGINE_CANNOT_STRUCTURE"
    message = (
        "this server's engine, {engine}, generates free text only; leave out {field}, or call a server whose engine is "
        "vLLM"
    )


class HttpUnsupportedError(_DescribedError, errors.FailedPreconditionError):
    """The engine has no OpenAI application."""

    reason = "ENGINE_SERVES_NO_HTTP"
    message = (
        "this server's engine, {engine}, does not serve the OpenAI protocol; call over gRPC, or run the server with "
        "LUTHIER_INFERENCE_ENGINE=vllm"
    )


class ReplicaRefusedError(errors.FailedPreconditionError):
    """Another replica cannot serve an adapter revision; the deployment is unchanged."""

    reason = "REPLICA_REFUSED"

    def __init__(self, replica: str, adapter_revision: str, *, cause: str, message: str) -> None:
        super().__init__(
            f"replica {replica} cannot serve {adapter_revision}: {message}; nothing was changed",
            metadata={"replica": replica, "adapter_revision": adapter_revision, "cause": cause},
        )


class ReplicasTooSlowError(_DescribedError, errors.UnavailableError):
    """Live replicas did not check a revision in time; the deployment is unchanged."""

    reason = "REPLICAS_TOO_SLOW"
    message = (
        "{replicas} did not load and check the revision within {limit_s:g} s; nothing was changed, repeat the call, or "
        "look at those replicas"
    )
    retry_s = 5.0


class ReplicaLeaseLostError(_DescribedError, errors.UnavailableError):
    """The replica that makes a change no longer counts as live; the deployment is unchanged."""

    reason = "REPLICA_LEASE_LOST"
    message = "the lease of replica {replica} expired during the change; nothing was changed, repeat the call"


class PromptTooLongError(errors.InvalidArgumentError):
    """The prompt leaves no room for an answer."""

    reason = "PROMPT_TOO_LONG"

    def __init__(self, token_count: int, window: int, *, is_at_least: bool = False, field: str = "prompt") -> None:
        """`is_at_least`: it has that many tokens or more."""
        size = f"at least {token_count}" if is_at_least else str(token_count)
        super().__init__(
            f"the prompt has {size} tokens, and the model's window of {window} needs room for an answer",
            metadata={"token_count": str(token_count), "window": str(window)},
            violations=[errors.FieldViolation(field, f"at most {window - 1} tokens")],
        )


class ReaderTooSlowError(_DescribedError, errors.AbortedError):
    """The client of a stream does not read the answer."""

    reason = "READER_TOO_SLOW"
    message = "the client read nothing for {limit_s:.0f} s; read the stream as it comes, or request a whole answer"


class QueueFullError(_DescribedError, errors.ResourceExhaustedError):
    """Too many requests are waiting or running."""

    reason = "QUEUE_FULL"
    message = "{limit} requests are in flight, the limit of this server; retry in {retry_after_s:.1f} s"


class TenantQueueFullError(_DescribedError, errors.ResourceExhaustedError):
    """Too many requests of one tenant are waiting or running."""

    reason = "TENANT_QUEUE_FULL"
    message = (
        "tenant {tenant} has {limit} requests in flight, the limit of this server for one tenant; retry in "
        "{retry_after_s:.1f} s"
    )


class QuotaExceededError(_DescribedError, errors.ResourceExhaustedError):
    """The tenant's quota of requests, tokens or concurrent requests is used up for now."""

    reason = "QUOTA_EXCEEDED"
    message = (
        "tenant {tenant} has used up its quota {quota}={limit}; retry in {retry_after_s:.1f} s, or have an operator "
        "raise it (luthier quota set)"
    )


class AdapterQuotaError(_DescribedError, errors.ResourceExhaustedError):
    """The tenant has as many different adapters deployed as its quota allows."""

    reason = "ADAPTER_QUOTA_EXCEEDED"
    message = (
        "tenant {tenant} may have {limit} different adapters deployed; undeploy one first, or have an operator raise "
        "the quota (luthier quota set)"
    )
    retry_s = 60.0


class ResponseNotFoundError(_DescribedError, errors.NotFoundError):
    """The tenant has no such answer, or it is no longer remembered."""

    reason = "RESPONSE_NOT_FOUND"
    message = "this tenant has no response {response_id}, or it ended too long ago; use the response id of the answer"


class CaptureFileNotFoundError(_DescribedError, errors.NotFoundError):
    """No such file, or it was deleted."""

    reason = "CAPTURE_FILE_NOT_FOUND"
    message = (
        "there is no capture file {capture_file}; `luthier capture list` lists them, `luthier feedback export` makes "
        "one"
    )


class ExportTooLargeError(_DescribedError, errors.InvalidArgumentError):
    """More feedback than fits into one file."""

    reason = "EXPORT_TOO_LARGE"
    message = "the export has more than {limit} rows; narrow it to a deployment or a rating"


class ExportOvertakenError(_DescribedError, errors.FailedPreconditionError):
    """Capture was switched off while the export was made, so it was discarded."""

    reason = "EXPORT_OVERTAKEN"
    message = "capture of {parent} was switched off during the export; export again"


class RevisionNotFoundError(_DescribedError, errors.NotFoundError):
    """The tenant has no such adapter revision."""

    reason = "ADAPTER_REVISION_NOT_FOUND"
    message = "there is no adapter revision {adapter_revision}; `luthier jobs list` shows the results of trainings"


class BaseModelNotFoundError(_DescribedError, errors.NotFoundError):
    """No such base model."""

    reason = "BASE_MODEL_NOT_FOUND"
    message = "there is no base model {base_model}; `luthier model import` adds one"


class BaseModelNotReadyError(_DescribedError, errors.FailedPreconditionError):
    """The base model is being imported, or its import failed."""

    reason = "BASE_MODEL_NOT_READY"
    message = "the import of {base_model} is not complete; watch it with `luthier model list`"


class TrainerUnavailableError(_DescribedError, errors.UnavailableError):
    """The trainer does not respond."""

    reason = "TRAINER_UNAVAILABLE"
    message = "the trainer did not respond ({code}: {detail}); `luthier status` shows whether it runs"
    retry_s = 2.0
