"""Base models: their registration and import, which a worker does."""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
import time
import uuid
from collections.abc import Callable, Sequence

from luthierd.errors import AbortedError, InvalidArgumentError
from luthierd.names import BASE_MODEL, parse_id
from luthierd.paging import Page, PageRequest
from luthierd.trainer.domain.base_model import (
    BaseModel,
    BaseModelExistsError,
    BaseModelNotFoundError,
    BaseModelState,
    ImportPathForbiddenError,
    ImportPathNotFoundError,
    ImportSource,
    PackageNotFoundError,
)
from luthierd.trainer.store import SqlStore

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
HUB_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


class BaseModels:
    """The registry of general models, shared by all tenants."""

    def __init__(
        self,
        store: SqlStore,
        *,
        import_roots: Sequence[pathlib.Path],
        wake: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._import_roots, self._wake, self._now = store, import_roots, wake, now

    async def import_model(
        self, base_model_id: str, *, path: str = "", package: str = "", repository: str = "", revision: str = ""
    ) -> BaseModel:
        """Starts an import. The same source again returns the existing model; a failed one is imported again.

        BaseModelExistsError, PackageNotFoundError, ImportPathNotFoundError, ImportPathForbiddenError.
        """
        name = BASE_MODEL.format(parse_id(base_model_id, field="base_model_id"))
        source = (
            hub_source(repository, revision)
            if repository
            else resolve_source(path=path, package=package, import_roots=self._import_roots)
        )
        existing = await self._store.base_model(name)
        if existing is not None and existing.state is not BaseModelState.FAILED:
            if existing.source != source:
                raise BaseModelExistsError(name, existing.source.label)
            return existing
        job = f"{name}/imports/{uuid.uuid4().hex[:12]}"
        replaces = existing.import_job if existing else None
        if not await self._store.start_import(name, source, job=job, replaces=replaces, now=self._now()):
            raise AbortedError(f"{name} is being imported by another call; ask again", metadata={"base_model": name})
        self._wake()
        return await self.get(name)

    async def get(self, name: str) -> BaseModel:
        """BaseModelNotFoundError."""
        BASE_MODEL.parse(name)
        model = await self._store.base_model(name)
        if model is None:
            raise BaseModelNotFoundError(name)
        return model

    async def list(self, page_size: int, page_token: str) -> Page[BaseModel]:
        """By name."""
        return await self._store.base_models(PageRequest.parse(page_size, page_token, "baseModels"))


def resolve_source(*, path: str, package: str, import_roots: Sequence[pathlib.Path]) -> ImportSource:
    """The source that a request names, after a look that loads nothing. See `import_model` for the errors."""
    if bool(path) == bool(package):
        raise InvalidArgumentError.of_field("source", "give either a path or a package")
    if package:
        try:
            version = importlib.metadata.version(package)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            raise PackageNotFoundError(package) from None
        return ImportSource(kind="package", value=package, label=f"package:{package}=={version}")
    folder = pathlib.Path(path).expanduser().resolve()  # symbolic links are followed before the roots are compared
    if not any(folder.is_relative_to(root) for root in import_roots):
        raise ImportPathForbiddenError(path)
    if not folder.is_dir():
        raise ImportPathNotFoundError(path)
    return ImportSource(kind="path", value=str(folder), label=f"path:{folder.name}")


def hub_source(repository: str, revision: str) -> ImportSource:
    """A revision (branch, tag or commit; empty: `main`) of a hub's repository. InvalidArgumentError."""
    if not REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        raise InvalidArgumentError.of_field("hub.repository", "it must look like `organisation/model`")
    revision = revision or "main"
    if not HUB_REVISION.fullmatch(revision) or ".." in revision:
        raise InvalidArgumentError.of_field("hub.revision", "it must be the name of a branch or tag, or a commit")
    return ImportSource(kind="hub", value=repository, label=f"hub:{repository}@{revision}", revision=revision)
