"""`Client`: the same nouns without `await`, for scripts and notebooks."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from luthier.client import AsyncClient
from luthier.endpoints import Endpoints
from luthier.resources import (
    adapters,
    base_models,
    datasets,
    deployments,
    engine,
    evaluations,
    feedback,
    gates,
    holdouts,
    inference,
    prompts,
    quotas,
    training_jobs,
    verdicts,
)
from luthier.resources import (
    annotation_queues as annotation_queues,
)
from luthier.resources import (
    challenge_sets as challenge_sets,
)
from luthier.transport import RetryPolicy, TokenSource

T = TypeVar("T")
N = TypeVar("N")
P = ParamSpec("P")


class _End:
    """What `anext` gives at the end."""


_END = _End()


class LoopThread:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="luthier-client", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine there and waits for it here; Ctrl-C here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        if self._thread.is_alive():
            self.run(self._loop.shutdown_asyncgens())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class SyncIterator(Iterator[T]):
    """A plain iterator over an async one. Dropping or closing it ends the call behind it."""

    def __init__(self, source: AsyncIterator[T], thread: LoopThread) -> None:
        self._source = source
        self._thread = thread

    def __next__(self) -> T:
        async def step() -> T | _End:
            return await anext(self._source, _END)

        item = self._thread.run(step())
        if isinstance(item, _End):
            raise StopIteration
        return item

    def close(self) -> None:
        close = getattr(self._source, "aclose", None)
        if close is not None:
            self._thread.run(close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SyncNoun(Generic[N]):
    """One noun of the async client. Its methods are made by `waits` and `iterates` and keep their types."""

    def __init__(self, noun: N, thread: LoopThread) -> None:
        self._noun = noun
        self._thread = thread


def waits(
    method: Callable[Concatenate[N, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncNoun[N], P], T]:
    """The method that runs `method` on the client's loop and waits for it."""

    @functools.wraps(method)
    def waiting(self: SyncNoun[N], /, *arguments: P.args, **options: P.kwargs) -> T:
        return self._thread.run(method(self._noun, *arguments, **options))

    return waiting


def iterates(
    method: Callable[Concatenate[N, P], AsyncIterator[T]],
) -> Callable[Concatenate[SyncNoun[N], P], SyncIterator[T]]:
    """The method that gives the items of `method` one by one, each when it is there."""

    @functools.wraps(method)
    def iterating(self: SyncNoun[N], /, *arguments: P.args, **options: P.kwargs) -> SyncIterator[T]:
        async def opened() -> AsyncIterator[T]:  # channels belong to the loop that opens them
            return method(self._noun, *arguments, **options)

        return SyncIterator(self._thread.run(opened()), self._thread)

    return iterating


class Datasets(SyncNoun[datasets.Datasets]):
    import_rows = waits(datasets.Datasets.import_rows)
    import_files = waits(datasets.Datasets.import_files)
    get = waits(datasets.Datasets.get)
    list = iterates(datasets.Datasets.list)
    curate = waits(datasets.Datasets.curate)
    get_revision = waits(datasets.Datasets.get_revision)
    list_revisions = iterates(datasets.Datasets.list_revisions)
    cancel_revision = waits(datasets.Datasets.cancel_revision)
    watch_revision = iterates(datasets.Datasets.watch_revision)
    wait_revision = waits(datasets.Datasets.wait_revision)
    read_split = iterates(datasets.Datasets.read_split)
    rows = iterates(datasets.Datasets.rows)
    datasheet = waits(datasets.Datasets.datasheet)


class BaseModels(SyncNoun[base_models.BaseModels]):
    import_model = waits(base_models.BaseModels.import_model)
    get = waits(base_models.BaseModels.get)
    list = iterates(base_models.BaseModels.list)
    wait = waits(base_models.BaseModels.wait)


class TrainingJobs(SyncNoun[training_jobs.TrainingJobs]):
    create = waits(training_jobs.TrainingJobs.create)
    get = waits(training_jobs.TrainingJobs.get)
    list = iterates(training_jobs.TrainingJobs.list)
    cancel = waits(training_jobs.TrainingJobs.cancel)
    watch = iterates(training_jobs.TrainingJobs.watch)
    wait = waits(training_jobs.TrainingJobs.wait)


class Adapters(SyncNoun[adapters.Adapters]):
    list = iterates(adapters.Adapters.list)
    get_revision = waits(adapters.Adapters.get_revision)
    list_revisions = iterates(adapters.Adapters.list_revisions)


class Evaluations(SyncNoun[evaluations.Evaluations]):
    create = waits(evaluations.Evaluations.create)
    get = waits(evaluations.Evaluations.get)
    list = iterates(evaluations.Evaluations.list)
    cancel = waits(evaluations.Evaluations.cancel)
    watch = iterates(evaluations.Evaluations.watch)
    wait = waits(evaluations.Evaluations.wait)
    list_rows = iterates(evaluations.Evaluations.list_rows)
    read_report = waits(evaluations.Evaluations.read_report)


class Gates(SyncNoun[gates.Gates]):
    run = waits(gates.Gates.run)
    plan = waits(gates.Gates.plan)
    self_test = waits(gates.Gates.self_test)
    create_policy = waits(gates.Gates.create_policy)
    get_policy = waits(gates.Gates.get_policy)
    list_policies = iterates(gates.Gates.list_policies)


class Holdouts(SyncNoun[holdouts.Holdouts]):
    get = waits(holdouts.Holdouts.get)
    list_accesses = iterates(holdouts.Holdouts.list_accesses)


class Prompts(SyncNoun[prompts.Prompts]):
    create = waits(prompts.Prompts.create)
    get = waits(prompts.Prompts.get)
    list = iterates(prompts.Prompts.list)
    cancel = waits(prompts.Prompts.cancel)
    watch = iterates(prompts.Prompts.watch)
    wait = waits(prompts.Prompts.wait)


class Verdicts(SyncNoun[verdicts.Verdicts]):
    decide = waits(verdicts.Verdicts.decide)
    compare = waits(verdicts.Verdicts.compare)


class AnnotationQueues(SyncNoun[annotation_queues.AnnotationQueues]):
    create = waits(annotation_queues.AnnotationQueues.create)
    get = waits(annotation_queues.AnnotationQueues.get)
    list = iterates(annotation_queues.AnnotationQueues.list)
    next_item = waits(annotation_queues.AnnotationQueues.next_item)
    vote = waits(annotation_queues.AnnotationQueues.vote)
    list_votes = iterates(annotation_queues.AnnotationQueues.list_votes)
    summary = waits(annotation_queues.AnnotationQueues.summary)


class ChallengeSets(SyncNoun[challenge_sets.ChallengeSets]):
    generate = waits(challenge_sets.ChallengeSets.generate)
    create = waits(challenge_sets.ChallengeSets.create)
    get = waits(challenge_sets.ChallengeSets.get)
    list = iterates(challenge_sets.ChallengeSets.list)
    list_cases = iterates(challenge_sets.ChallengeSets.list_cases)


class Deployments(SyncNoun[deployments.Deployments]):
    deploy = waits(deployments.Deployments.deploy)
    promote = waits(deployments.Deployments.promote)
    rollback = waits(deployments.Deployments.rollback)
    set_traffic = waits(deployments.Deployments.set_traffic)
    pin = waits(deployments.Deployments.pin)
    prefetch = waits(deployments.Deployments.prefetch)
    delete = waits(deployments.Deployments.delete)
    get = waits(deployments.Deployments.get)
    list = iterates(deployments.Deployments.list)


class Engine(SyncNoun[engine.Engine]):
    start = waits(engine.Engine.start)
    get = waits(engine.Engine.get)
    wait_ready = waits(engine.Engine.wait_ready)


class Inference(SyncNoun[inference.Inference]):
    generate = waits(inference.Inference.generate)
    generate_stream = iterates(inference.Inference.generate_stream)
    chat = waits(inference.Inference.chat)
    chat_stream = iterates(inference.Inference.chat_stream)
    batch_generate = waits(inference.Inference.batch_generate)
    score = waits(inference.Inference.score)
    embed = waits(inference.Inference.embed)


class Feedback(SyncNoun[feedback.Feedback]):
    record = waits(feedback.Feedback.record)
    export = waits(feedback.Feedback.export)


class Captures(SyncNoun[feedback.Captures]):
    get_policy = waits(feedback.Captures.get_policy)
    update_policy = waits(feedback.Captures.update_policy)
    list = iterates(feedback.Captures.list)
    read = iterates(feedback.Captures.read)


class Quotas(SyncNoun[quotas.Quotas]):
    get = waits(quotas.Quotas.get)
    list = iterates(quotas.Quotas.list)
    update = waits(quotas.Quotas.update)


class Client:
    """As `AsyncClient`, with the same arguments, for code without an event loop. Close it with `with` or `close()`."""

    def __init__(
        self,
        endpoints: Endpoints | None = None,
        token: TokenSource | None = None,
        *,
        tenant: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._client = AsyncClient(endpoints, token, tenant=tenant, retry=retry)
        self._thread = LoopThread()
        self.endpoints = self._client.endpoints
        self.datasets = Datasets(self._client.datasets, self._thread)
        self.base_models = BaseModels(self._client.base_models, self._thread)
        self.training_jobs = TrainingJobs(self._client.training_jobs, self._thread)
        self.adapters = Adapters(self._client.adapters, self._thread)
        self.evaluations = Evaluations(self._client.evaluations, self._thread)
        self.gates = Gates(self._client.gates, self._thread)
        self.holdouts = Holdouts(self._client.holdouts, self._thread)
        self.verdicts = Verdicts(self._client.verdicts, self._thread)
        self.prompts = Prompts(self._client.prompts, self._thread)
        self.annotation_queues = AnnotationQueues(self._client.annotation_queues, self._thread)
        self.challenge_sets = ChallengeSets(self._client.challenge_sets, self._thread)
        self.deployments = Deployments(self._client.deployments, self._thread)
        self.engine = Engine(self._client.engine, self._thread)
        self.inference = Inference(self._client.inference, self._thread)
        self.feedback = Feedback(self._client.feedback, self._thread)
        self.captures = Captures(self._client.captures, self._thread)
        self.quotas = Quotas(self._client.quotas, self._thread)

    def close(self) -> None:
        """Closes the channels and the thread."""
        self._thread.run(self._client.close())
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
