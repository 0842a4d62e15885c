"""Async methods as blocking ones: they run on an event loop in a background thread."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Self, TypeVar

T = TypeVar("T")
_END: Any = object()


class LoopThread:
    """An event loop in its own thread."""

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
        async def step() -> T:
            return await anext(self._source, _END)

        item = self._thread.run(step())
        if item is _END:
            raise StopIteration
        return item

    def close(self) -> None:
        close = getattr(self._source, "aclose", None)
        if close is not None:
            self._thread.run(close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class SyncNoun:
    """A noun of the async client whose methods block."""

    def __init__(self, noun: object, thread: LoopThread) -> None:
        self._noun = noun
        self._thread = thread


def blocking(noun: type) -> type[SyncNoun]:
    """A class with the public methods of `noun`: coroutines return their result, async iterators become iterators."""
    methods = {
        name: _blocking(method)
        for name, method in inspect.getmembers(noun, inspect.isfunction)
        if not name.startswith("_")
    }
    return type(noun.__name__, (SyncNoun,), {"__doc__": noun.__doc__, **methods})


def _blocking(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def waiting(self: SyncNoun, /, *arguments: Any, **options: Any) -> Any:
        return self._thread.run(method(self._noun, *arguments, **options))

    @functools.wraps(method)
    def iterating(self: SyncNoun, /, *arguments: Any, **options: Any) -> Any:
        async def opened() -> AsyncIterator[Any]:  # a channel belongs to the loop that opens it
            iterator: AsyncIterator[Any] = method(self._noun, *arguments, **options)
            return iterator

        return SyncIterator(self._thread.run(opened()), self._thread)

    return waiting if inspect.iscoroutinefunction(method) else iterating
