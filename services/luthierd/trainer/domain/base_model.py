"""Base models: where they come from, what is known of them, why one cannot be had."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from luthierd.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError, PermissionDeniedError


class BaseModelNotFoundError(NotFoundError):
    """No such base model."""

    reason = "BASE_MODEL_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no {name}; `luthier model import` registers one, ListBaseModels names those there are",
            metadata={"base_model": name},
        )


class BaseModelNotReadyError(FailedPreconditionError):
    """The base model cannot be trained on now."""

    reason = "BASE_MODEL_NOT_READY"

    def __init__(self, name: str, state: str) -> None:
        advice = "wait until it is READY" if state == BaseModelState.IMPORTING else "import it again"
        super().__init__(f"{name} is {state}; {advice}", metadata={"base_model": name, "state": state})


class BaseModelExistsError(AlreadyExistsError):
    """The name is taken by another model."""

    reason = "BASE_MODEL_EXISTS"

    def __init__(self, name: str, source: str) -> None:
        super().__init__(
            f"{name} is taken by a model from {source}; choose another name",
            metadata={"base_model": name, "source": source},
        )


class PackageNotFoundError(NotFoundError):
    """No such package is installed on the trainer's machine."""

    reason = "PACKAGE_NOT_FOUND"

    def __init__(self, package: str) -> None:
        super().__init__(
            f"the package {package} is not installed on the trainer's machine; pip install --no-deps {package}",
            metadata={"package": package},
        )


class ImportPathNotFoundError(FailedPreconditionError):
    """The folder does not exist."""

    reason = "IMPORT_PATH_NOT_FOUND"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} is not a folder on the trainer's machine; give the one that holds config.json",
            metadata={"path": path},
        )


class ImportPathForbiddenError(PermissionDeniedError):
    """The folder is outside the allowed import folders."""

    reason = "IMPORT_PATH_FORBIDDEN"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} is outside of the trainer's import roots; move it there, or set LUTHIER_TRAINER_IMPORT_ROOTS",
            metadata={"path": path},
        )


class BaseModelState(enum.StrEnum):
    """IMPORTING -> READY | FAILED; FAILED -> IMPORTING."""

    IMPORTING = "IMPORTING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True, kw_only=True)
class BaseModelInfo:
    """What an import finds out about a model."""

    sha256: str
    tokenizer_sha256: str
    chat_template_sha256: str
    architecture: str
    parameter_count: int
    context_window_tokens: int
    size_bytes: int
    hub_commit: str = ""
    """Of the hub's repository that it was fetched from."""


@dataclass(frozen=True, kw_only=True)
class ImportSource:
    """Where a base model comes from. `label` is what is shown: it names no folder of the machine above the last one."""

    kind: str
    """`path`, `package` or `hub`."""
    value: str
    label: str
    revision: str = ""
    """Of a hub's repository, as it was asked for."""


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A registered general model."""

    name: str
    state: BaseModelState
    source: ImportSource
    import_job: str
    create_time: float
    end_time: float | None = None
    error: dict[str, Any] | None = None
    info: BaseModelInfo | None = None

    def ready_info(self) -> BaseModelInfo:
        """What is known of it. BaseModelNotReadyError until it is READY."""
        if self.state is not BaseModelState.READY or self.info is None:
            raise BaseModelNotReadyError(self.name, self.state)
        return self.info
