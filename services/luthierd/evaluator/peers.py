"""The other services, through the SDK and in the name of a tenant: curation, trainer and inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from luthier.client import AsyncClient

from luthierd.errors import NotFoundError
from luthierd.evaluator import wire
from luthierd.evaluator.asking import Reply
from luthierd.evaluator.domain import AdapterRevision, Arm, DatasetRevision, Message
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


class SdkAnswerer:
    """Inference; see `asking.Answerer`. Greedy: the same weights give the same answer again."""

    def __init__(self, client: AsyncClient, target: Callable[[Arm], str], *, timeout_s: float) -> None:
        self._inference = client.inference
        self._target = target
        self._timeout_s = timeout_s

    async def ask(self, arm: Arm, messages: Sequence[Message], *, max_tokens: int) -> Reply:
        """One answer. `timeout_s` covers the start of the engine and the loading of the adapter."""
        target = self._target(arm)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        call = self._inference.chat(target, turns, max_tokens=max_tokens, temperature=0.0, timeout_s=self._timeout_s)
        return wire.reply_from_proto(await translated(call))


def client_of(client: AsyncClient, issuer: TokenIssuer, tenant: str) -> AsyncClient:
    """A client over the same channels that acts for `tenant`."""
    return acting_for(tenant, client=client, issuer=issuer, service="evaluator", scopes=SCOPES)
