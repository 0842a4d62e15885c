"""`AsyncClient`: one attribute for each noun."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from luthier import profiles
from luthier.endpoints import Endpoints
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
from luthier.resources.training_jobs import TrainingJobs
from luthier.resources.verdicts import Verdicts
from luthier.services import SERVICES
from luthier.transport import RetryPolicy, TokenSource, Transport


class AsyncClient:
    """Talks to the four services of an installation. Channels open with the first call; close with `async with` or
    `close()`. Use it on one event loop.

    endpoints: where; None: from the profile (`luthier.profiles`), else the installation that `luthier up` runs here.
    token: a bearer token, or a callable (plain or async) that is asked before every call; None: the profile's, or one
    minted from the local key. tenant: for the minted token; None: the profile's.
    """

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
            service: Transport(service, endpoints.address_of(service), tls=endpoints.tls, token=token, retry=retry)
            for service in SERVICES
        }
        self._adopt(transports)

    def _adopt(self, transports: dict[str, Transport]) -> None:
        self._transports = transports
        self.datasets = Datasets(transports["curation"])
        self.base_models = BaseModels(transports["trainer"])
        self.training_jobs = TrainingJobs(transports["trainer"])
        self.adapters = Adapters(transports["trainer"])
        self.evaluations = Evaluations(transports["evaluator"])
        self.gates = Gates(transports["evaluator"])
        self.holdouts = Holdouts(transports["evaluator"])
        self.verdicts = Verdicts(transports["evaluator"])
        self.prompts = Prompts(transports["evaluator"])
        self.annotation_queues = AnnotationQueues(transports["evaluator"])
        self.challenge_sets = ChallengeSets(transports["evaluator"])
        self.deployments = Deployments(transports["inference"])
        self.engine = Engine(transports["inference"])
        self.inference = Inference(transports["inference"])
        self.feedback = Feedback(transports["inference"])
        self.captures = Captures(transports["inference"])
        self.quotas = Quotas(transports["inference"])

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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
