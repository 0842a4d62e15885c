"""The other services, through the SDK and in the name of a tenant: curation, trainer and inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from luthier.client import AsyncClient

from luthierd.errors import FailedPreconditionError, LuthierError, NotFoundError
from luthierd.evaluator.api import evaluation_wire as wire
from luthierd.evaluator.api import suite_wire
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import AdapterRevision, DatasetRevision
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.graders.judge_models import Judged
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
        return wire.adapter_revision_from_proto(await translated(client.adapters.get_revision(name)))

    async def dataset_revision(self, tenant: str, name: str) -> DatasetRevision:
        """What curation says."""
        client = client_of(self._client, self._issuer, tenant)
        return wire.dataset_revision_from_proto(await translated(client.datasets.get_revision(name)))

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
            return wire.training_s_from_proto(await translated(client.training_jobs.get(revision.training_job)))
        except NotFoundError:
            return None

    async def deployed_adapters(self, tenant: str, deployment: str) -> Sequence[str]:
        """The adapter revisions that may answer for a deployment now; its base model is none."""
        client = client_of(self._client, self._issuer, tenant)
        return wire.deployed_adapters_from_proto(await translated(client.deployments.get(deployment)))


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
        return wire.reply_from_proto(await translated(call))

    async def likelihood(self, arm: Arm, messages: Sequence[Message], completion: str) -> Likelihood:
        """How likely a whole answer is after a conversation."""
        call = self._inference.score(self._target(arm), _turns(messages), completion, timeout_s=self._timeout_s)
        return wire.likelihood_from_proto(await translated(call))


class SdkChat:
    """Inference as a judge; see `judge_models.Chat`."""

    def __init__(self, client: AsyncClient, *, timeout_s: float) -> None:
        self._inference = client.inference
        self._timeout_s = timeout_s

    async def __call__(
        self, target: str, messages: Sequence[Message], *, max_tokens: int, json_schema: str | None
    ) -> Judged:
        """One greedy answer that fits the schema; without the schema from an engine that cannot make it fit."""
        try:
            return await self._ask(target, messages, max_tokens, json_schema)
        except FailedPreconditionError as error:
            if error.reason != "ENGINE_CANNOT_STRUCTURE":
                raise
        return await self._ask(target, messages, max_tokens, None)

    async def _ask(self, target: str, messages: Sequence[Message], max_tokens: int, json_schema: str | None) -> Judged:
        call = self._inference.chat(
            target,
            _turns(messages),
            max_tokens=max_tokens,
            temperature=0.0,
            json_schema=json_schema,
            timeout_s=self._timeout_s,
        )
        return wire.judged_from_proto(await translated(call))


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
