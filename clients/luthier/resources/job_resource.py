"""Work that goes on in a service without the client: it is created, then watched or waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import ModuleType
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from luthier.display import state_of
from luthier.errors import UnavailableError
from luthier.resources.resource import FINAL_STATES, Deletion, Resource, Stub, finished

Job = TypeVar("Job", bound=Message)
Event = TypeVar("Event", bound=Message)


class JobResource(Resource[Stub], Generic[Stub, Job, Event]):
    """Get, list, cancel, watch and wait, for the methods of the contract that follow the names below.

    _api: the module of the requests. _job: the job in the methods' names, e.g. `TrainingJob`. _field: the job in the
    responses, e.g. `training_job`.
    """

    _api: ModuleType
    _job: str
    _field: str

    async def get(self, name: str, *, timeout_s: float | None = None) -> Job:
        return await self._call_on_job("Get", timeout_s, name=name)

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[Job]:
        """The jobs of `tenants/{t}`, newest first."""
        method, request = self._prepared(f"List{self._job}s", parent=parent, page_size=page_size)
        return self._pages(method, request, lambda page: getattr(page, f"{self._field}s"))

    async def cancel(self, name: str, *, request_id: str = "", timeout_s: float | None = None) -> Job:
        """Asks a job to end; a finished job is returned unchanged."""
        return await self._call_on_job("Cancel", timeout_s, name=name, request_id=request_id)

    async def delete(
        self,
        name: str,
        *,
        cascade: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Deletion:
        """Deletes a finished job; see docs/storage.md."""
        fields = {"cascade": cascade, "validate_only": validate_only, "request_id": request_id}
        return await self._delete(*self._prepared(f"Delete{self._job}", name=name, **fields), timeout_s)

    def watch(
        self, name: str, *, after_event_id: int = 0, on_away: Callable[[UnavailableError], None] | None = None
    ) -> AsyncIterator[Event]:
        """Yields the job's events until it is final, across restarts of the service; on_away is called at each."""

        def request_after(event_id: int) -> Any:
            return self._prepared(f"Watch{self._job}", name=name, after_event_id=event_id)[1]

        async def is_over() -> bool:
            return state_of(await self.get(name)) in FINAL_STATES

        return self._transport.watch(
            getattr(self._stub, f"Watch{self._job}"),
            request_after,
            after_event_id=after_event_id,
            is_final=lambda event: event.HasField("state") and state_of(event) in FINAL_STATES,
            is_over=is_over,
            on_away=on_away,
        )

    async def wait(self, name: str, *, timeout_s: float | None = None, poll_interval_s: float = 0.5) -> Job:
        """Waits until the job has succeeded. Raises `JobFailedError`, `JobCancelledError` or `TimeoutError`."""
        job = await self._final(lambda: self.get(name), timeout_s=timeout_s, poll_interval_s=poll_interval_s)
        return finished(job)

    async def _call_on_job(self, verb: str, timeout_s: float | None, **fields: str) -> Job:
        method, request = self._prepared(f"{verb}{self._job}", **fields)
        job: Job = getattr(await self._call(method, request, timeout_s), self._field)
        return job

    def _prepared(self, method: str, **fields: Any) -> tuple[Any, Any]:
        """A method of the stub and its request."""
        return getattr(self._stub, method), getattr(self._api, f"{method}Request")(**fields)
