"""`AsyncClient`: one attribute for each noun."""

from __future__ import annotations

from typing import Any, Self, get_type_hints

from luthier import profiles
from luthier.endpoints import Endpoints
from luthier.resources.adapter_imports import AdapterImports
from luthier.resources.adapters import Adapters
from luthier.resources.annotation_queues import AnnotationQueues
from luthier.resources.base_models import BaseModels
from luthier.resources.challenge_sets import ChallengeSets
from luthier.resources.datasets import Datasets
from luthier.resources.deployments import Deployments
from luthier.resources.engine import Engine
from luthier.resources.evaluations import Evaluations
from luthier.resources.feedback import Captures, Feedback
from luthier.resources.gates import Gates
from luthier.resources.holdouts import Holdouts
from luthier.resources.inference import Inference
from luthier.resources.prompts import Prompts
from luthier.resources.quotas import Quotas
from luthier.resources.resource import Resource
from luthier.resources.storage import Storage
from luthier.resources.training_jobs import TrainingJobs
from luthier.resources.verdicts import Verdicts
from luthier.services import SERVICES
from luthier.transport import RetryPolicy, TokenSource, Transport


class AsyncClient:
    """Talks to the four services of an installation. Channels open with the first call; close with `async with` or
    `close()`. Use it on one event loop.

    endpoints: where; None: from the profile (`luthier.profiles`), or else the installation that `luthier up` runs here.
    token: a bearer token, or a callable (plain or async) that is called before every request; None: the profile's, or
    one signed with the local key. tenant: of the signed token; None: the profile's.
    """

    datasets: Datasets
    base_models: BaseModels
    training_jobs: TrainingJobs
    adapters: Adapters
    adapter_imports: AdapterImports
    evaluations: Evaluations
    gates: Gates
    holdouts: Holdouts
    verdicts: Verdicts
    prompts: Prompts
    annotation_queues: AnnotationQueues
    challenge_sets: ChallengeSets
    deployments: Deployments
    engine: Engine
    inference: Inference
    feedback: Feedback
    captures: Captures
    quotas: Quotas
    storage: Storage

    def __init__(
        self,
        endpoints: Endpoints | None = None,
        token: TokenSource | None = None,
        *,
        tenant: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        if endpoints is None:
            profile = profiles.resolve(tenant=tenant)
            endpoints, token = profile.endpoints, token or profile.token
        self.endpoints = endpoints
        transports = {
            service: Transport(
                service,
                endpoints.address_of(service),
                tls=endpoints.tls,
                token=token,
                may_carry_tokens=endpoints.may_carry_tokens(service),
                retry=retry,
            )
            for service in SERVICES
        }
        self._adopt(transports)

    def _adopt(self, transports: dict[str, Transport]) -> None:
        self._transports = transports
        for attribute, noun in NOUNS.items():
            setattr(self, attribute, noun.over(transports))

    def with_token(self, token: TokenSource) -> AsyncClient:
        """A client over the same channels that presents another token. Closing either closes both."""
        other = object.__new__(type(self))
        other.endpoints = self.endpoints
        other._adopt({service: transport.with_token(token) for service, transport in self._transports.items()})
        return other

    async def close(self) -> None:
        """Closes the channels; calls in flight are cancelled."""
        for transport in self._transports.values():
            await transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


NOUNS: dict[str, type[Resource[Any]]] = get_type_hints(AsyncClient)
"""The attributes above and their classes."""
