"""The other services, through the SDK and in the name of a tenant: curation, trainer and inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from luthier.client import AsyncClient
from luthier.curation.v1 import dataset_pb2
from luthier.inference.v1 import deployment_pb2, inference_service_pb2
from luthier.trainer.v1 import adapter_pb2, training_job_pb2

from luthierd.errors import FailedPreconditionError, LuthierError, NotFoundError
from luthierd.evaluator.api import suite_wire
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import AdapterRevision, DatasetRevision
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.graders.judge_models import JudgeReply
from luthierd.evaluator.models.chat_endpoint import Completion
from luthierd.evaluator.models.generate import Reply
from luthierd.evaluator.models.multiple_choice import Likelihood
from luthierd.rpc.auth import TokenIssuer
from luthierd.rpc.peers import acting_for, translated

SCOPES = ("trainer.read", "curation.read", "inference.generate", "inference.evaluate")


class SdkPeers:
    """Trainer and curation; see `evaluations.Peers`."""

    def __init__(self, client: AsyncClient, issuer: TokenIssuer) -> None:
        self._client = client
        self._issuer = issuer

    async def adapter_revision(self, tenant: str, name: str) -> AdapterRevision:
        """What the trainer says."""
        client = client_of(self._client, self._issuer, tenant)
        return adapter_revision_from_proto(await translated(client.adapters.get_revision(name)))

    async def dataset_revision(self, tenant: str, name: str) -> DatasetRevision:
        """What curation says."""
        client = client_of(self._client, self._issuer, tenant)
        return dataset_revision_from_proto(await translated(client.datasets.get_revision(name)))

    async def base_model_sha256(self, tenant: str, name: str) -> str:
        """What the trainer says."""
        client = client_of(self._client, self._issuer, tenant)
        return str((await translated(client.base_models.get(name))).sha256)

    async def training_s(self, tenant: str, adapter_revision: str) -> float | None:
        """From the first start of the training job to its end, pauses included."""
        client = client_of(self._client, self._issuer, tenant)
        revision = await translated(client.adapters.get_revision(adapter_revision))
        if not revision.training_job:
            return None
        try:
            return training_s_from_proto(await translated(client.training_jobs.get(revision.training_job)))
        except NotFoundError:
            return None

    async def deployed_adapters(self, tenant: str, deployment: str) -> Sequence[str]:
        """The adapter revisions that may answer for a deployment now; its base model is none."""
        client = client_of(self._client, self._issuer, tenant)
        return deployed_adapters_from_proto(await translated(client.deployments.get(deployment)))


class InferenceModel:
    """Inference; see `generate.ChatModel`. Greedy: the same weights give the same answer again."""

    def __init__(self, client: AsyncClient, target: Callable[[Arm], str], *, timeout_s: float) -> None:
        self._inference = client.inference
        self._target = target
        self._timeout_s = timeout_s

    async def generate(
        self, arm: Arm, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Reply:
        """One answer. `timeout_s` covers the start of the engine and the loading of the adapter."""
        call = self._inference.chat(
            self._target(arm),
            _turns(messages),
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed if temperature else None,
            timeout_s=self._timeout_s,
        )
        return reply_from_proto(await translated(call))

    async def likelihood(self, arm: Arm, messages: Sequence[Message], completion: str) -> Likelihood:
        """How likely a whole answer is after a conversation."""
        call = self._inference.score(self._target(arm), _turns(messages), completion, timeout_s=self._timeout_s)
        return likelihood_from_proto(await translated(call))


class SdkChat:
    """Inference as a judge; see `judge_models.Chat`."""

    def __init__(self, client: AsyncClient, *, timeout_s: float) -> None:
        self._inference = client.inference
        self._timeout_s = timeout_s

    async def __call__(
        self, target: str, messages: Sequence[Message], *, max_tokens: int, json_schema: str | None
    ) -> JudgeReply:
        """One greedy answer that fits the schema; without the schema from an engine that cannot make it fit."""
        try:
            return await self._ask(target, messages, max_tokens, json_schema)
        except FailedPreconditionError as error:
            if error.reason != "ENGINE_CANNOT_STRUCTURE":
                raise
        return await self._ask(target, messages, max_tokens, None)

    async def _ask(
        self, target: str, messages: Sequence[Message], max_tokens: int, json_schema: str | None
    ) -> JudgeReply:
        call = self._inference.chat(
            target,
            _turns(messages),
            max_tokens=max_tokens,
            temperature=0.0,
            json_schema=json_schema,
            timeout_s=self._timeout_s,
        )
        return judged_from_proto(await translated(call))


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


class EngineVersion:
    """Kind and version of the inference service's engine; see `sample_store.SampleCache`."""

    def __init__(self, client: AsyncClient) -> None:
        self._engine = client.engine

    async def get(self) -> str:
        """Empty where it has not started, or where the service does not say: nothing depends on it but reuse."""
        try:
            return (await translated(self._engine.get())).version
        except LuthierError:
            return ""


class SdkLikelihoods:
    """Inference's Score; see `suite.SuiteParts`. The reply's text is the log-probability in nats."""

    def __init__(self, client: AsyncClient, target: Callable[[Arm], str], *, timeout_s: float) -> None:
        self._inference = client.inference
        self._target = target
        self._timeout_s = timeout_s

    async def generate(
        self, arm: Arm, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Reply:
        """The log-probability of the second message after the first, both as they are."""
        shown, scored = messages
        call = self._inference.score(self._target(arm), shown.content, scored.content, timeout_s=self._timeout_s)
        return suite_wire.scored_text_from_proto(await translated(call))


def client_of(client: AsyncClient, issuer: TokenIssuer, tenant: str) -> AsyncClient:
    """A client over the same channels that acts for `tenant`."""
    return acting_for(tenant, client=client, issuer=issuer, service="evaluator", scopes=SCOPES)


_SPLITS = {
    dataset_pb2.SPLIT_TRAIN: "train",
    dataset_pb2.SPLIT_VALIDATION: "validation",
    dataset_pb2.SPLIT_HOLDOUT: "holdout",
}


def adapter_revision_from_proto(message: adapter_pb2.AdapterRevision) -> AdapterRevision:
    """What the trainer says of an adapter revision."""
    return AdapterRevision(
        name=message.name,
        sha256=message.sha256,
        base_model=message.base_model,
        base_model_sha256=message.base_model_sha256,
        dataset_revision=message.dataset_revision,
    )


def training_s_from_proto(message: training_job_pb2.TrainingJob) -> float | None:
    """Seconds from a training job's first start to its end; None for one that has not ended."""
    if not (message.HasField("start_time") and message.HasField("end_time")):
        return None
    return (message.end_time.ToMicroseconds() - message.start_time.ToMicroseconds()) / 1e6


def dataset_revision_from_proto(message: dataset_pb2.DatasetRevision) -> DatasetRevision:
    """What curation says of a dataset revision."""
    known = {_SPLITS[file.split]: file for file in message.splits if file.split in _SPLITS}
    return DatasetRevision(
        name=message.name,
        sha256=message.sha256,
        is_ready=message.state == dataset_pb2.DATASET_REVISION_STATE_READY,
        splits={split: file.sha256 for split, file in known.items()},
        row_counts={split: file.row_count for split, file in known.items()},
    )


def deployed_adapters_from_proto(message: deployment_pb2.Deployment) -> list[str]:
    """The adapter revisions that a deployment's requests may go to."""
    held = [message.live.adapter_revision, *(share.adapter_revision for share in message.traffic)]
    return [revision for revision in dict.fromkeys(held) if revision]


def reply_from_proto(message: inference_service_pb2.ChatResponse) -> Reply:
    """An answer of the inference service."""
    return Reply(
        text=message.text,
        ttft_s=message.finish.ttft_ms / 1000,
        prompt_tokens=message.finish.prompt_token_count,
        completion_tokens=message.finish.completion_token_count,
        finish_reason=message.finish.finish_reason,
        loaded_adapter=message.origin.loaded_adapter,
    )


def likelihood_from_proto(message: inference_service_pb2.ScoreResponse) -> Likelihood:
    """A scored answer of the inference service."""
    return Likelihood(
        total_logprob=message.total_logprob,
        token_count=len(message.tokens),
        prompt_tokens=message.prompt_token_count,
        loaded_adapter=message.origin.loaded_adapter,
    )


def judged_from_proto(message: inference_service_pb2.ChatResponse) -> JudgeReply:
    """A judgement of the inference service."""
    reply = reply_from_proto(message)
    completion = Completion(
        text=reply.text,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        model=reply.loaded_adapter,
    )
    return JudgeReply(completion, message.origin.adapter_revision)
