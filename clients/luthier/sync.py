"""`Client`: the same nouns without `await`, for scripts and notebooks.

Made of `AsyncClient` by the loops below. Type checkers read `sync.pyi`, which `scripts/sync_stub.py` generates.
"""

from __future__ import annotations

from typing import Self

from luthier.blocking import LoopThread, SyncIterator, SyncNoun, blocking
from luthier.client import NOUNS, AsyncClient
from luthier.endpoints import Endpoints
from luthier.transport import RetryPolicy, TokenSource

__all__ = ["Client", "SyncIterator"]

_CLASSES: dict[str, type[SyncNoun]] = {attribute: blocking(noun) for attribute, noun in NOUNS.items()}
globals().update({made.__name__: made for made in _CLASSES.values()})


class Client:
    """Like `AsyncClient`, with the same arguments, for code without an event loop. Close with `with` or `close()`."""

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
        for attribute, noun in _CLASSES.items():
            setattr(self, attribute, noun(getattr(self._client, attribute), self._thread))

    def close(self) -> None:
        """Closes the channels and the thread."""
        self._thread.run(self._client.close())
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
