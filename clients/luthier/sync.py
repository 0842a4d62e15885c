"""`Client`: the same nouns without `await`, for scripts and notebooks."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from luthier.client import AsyncClient
from luthier.endpoints import Endpoints
from luthier.transport import RetryPolicy, TokenSource

T = TypeVar("T")


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


class SyncNoun:
    """One noun of the async client; every method waits."""

    def __init__(self, noun: object, thread: LoopThread) -> None:
        self._noun = noun
        self._thread = thread

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._noun, name)
        if name.startswith("_") or not callable(method):
            raise AttributeError(f"{type(self._noun).__name__} has no method {name!r}")

        @functools.wraps(method)
        def waiting(*arguments: Any, **options: Any) -> Any:
            async def on_the_loop() -> Any:  # channels belong to the loop that opens them
                outcome = method(*arguments, **options)
                return await outcome if inspect.isawaitable(outcome) else outcome

            outcome = self._thread.run(on_the_loop())
            return SyncIterator(outcome, self._thread) if isinstance(outcome, AsyncIterator) else outcome

        return waiting

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._noun) if not name.startswith("_")]


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
        self.datasets = SyncNoun(self._client.datasets, self._thread)
        self.base_models = SyncNoun(self._client.base_models, self._thread)
        self.training_jobs = SyncNoun(self._client.training_jobs, self._thread)
        self.adapters = SyncNoun(self._client.adapters, self._thread)
        self.evaluations = SyncNoun(self._client.evaluations, self._thread)
        self.gates = SyncNoun(self._client.gates, self._thread)
        self.deployments = SyncNoun(self._client.deployments, self._thread)
        self.engine = SyncNoun(self._client.engine, self._thread)
        self.inference = SyncNoun(self._client.inference, self._thread)

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
