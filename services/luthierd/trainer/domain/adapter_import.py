"""Adapters from elsewhere: their files, why they are refused, and the task of a worker."""

from __future__ import annotations

from dataclasses import dataclass

from luthierd.errors import (
    DataLossError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from luthierd.trainer.domain.base_model import BaseModelInfo

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
CHAT_TEMPLATE, TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"
REQUIRED_FILES = (CONFIG, WEIGHTS)
OPTIONAL_FILES = (TOKENIZER_CONFIG, CHAT_TEMPLATE, "README.md", "lineage.json", "reference.json")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class AdapterImportNotFoundError(NotFoundError):
    """No such import."""

    reason = "ADAPTER_IMPORT_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no import {name}; ListAdapterImports names those there are", metadata={"adapter_import": name}
        )


class AdapterFileForbiddenError(InvalidArgumentError):
    """A file that adapters are not made of, such as a pickle, which can run code when it is read."""

    reason = "ADAPTER_FILE_FORBIDDEN"
    field_name = "path"


class AdapterFileMissingError(FailedPreconditionError):
    """A file of the import was not written completely, or was deleted since."""

    reason = "ADAPTER_FILE_MISSING"


class AdapterFileDamagedError(DataLossError):
    """The bytes that arrived do not have the digest that was announced."""

    reason = "ADAPTER_FILE_DAMAGED"


class AdapterUploadsFullError(ResourceExhaustedError):
    """The tenant's files that wait for their import would exceed the limit."""

    reason = "ADAPTER_UPLOADS_FULL"


class AdapterInvalidError(InvalidArgumentError):
    """The files are not a LoRA adapter: one of them cannot be read, or they contradict each other."""

    reason = "ADAPTER_INVALID"


class AdapterUnsupportedError(InvalidArgumentError):
    """The adapter is of a kind, or uses an option, that the engine cannot serve."""

    reason = "ADAPTER_UNSUPPORTED"


class AdapterModuleUnknownError(InvalidArgumentError):
    """Weights for a module that the base model does not have, or has in another shape."""

    reason = "ADAPTER_MODULE_UNKNOWN"


class AdapterChangesBaseError(InvalidArgumentError):
    """Besides LoRA weights the adapter has weights of the base model, which differ from the base model's own."""

    reason = "ADAPTER_CHANGES_BASE"


class AdapterNotFiniteError(InvalidArgumentError):
    """NaN or infinity in the weights."""

    reason = "ADAPTER_NOT_FINITE"


class AdapterRankTooLargeError(InvalidArgumentError):
    """A rank above the engine's limit."""

    reason = "ADAPTER_RANK_TOO_LARGE"

    def __init__(self, rank: int, limit: int) -> None:
        super().__init__(
            f"rank {rank} exceeds the engine's limit of {limit}; choose a lower rank, or raise LUTHIER_MAX_LORA_RANK, "
            "which trainer and inference read",
            metadata={"rank": str(rank), "limit": str(limit)},
        )


@dataclass(frozen=True, kw_only=True)
class AdapterImportTask:
    """An import's payload: everything is resolved to digests, so that every worker reads the same bytes."""

    adapter: str
    base_model: str
    base_model_info: BaseModelInfo
    files: dict[str, str]
    """sha256 of each file by its path."""
    source_sha256: str
    subject: str
    """Who asked for it."""


def check_file_names(paths: list[str]) -> None:
    """AdapterFileForbiddenError, AdapterFileMissingError."""
    for index, path in enumerate(paths):
        if path in (*REQUIRED_FILES, *OPTIONAL_FILES):
            continue
        advice = f"an adapter has {', '.join((*REQUIRED_FILES, *OPTIONAL_FILES))}"
        if path.endswith(PICKLE_SUFFIXES):
            advice = (
                "a pickle can run code when it is read; save the adapter as safetensors: "
                "`PeftModel.save_pretrained(folder, safe_serialization=True)`"
            )
        field = f"adapter_import.files[{index}].path"
        raise AdapterFileForbiddenError(
            f"{path[:200]!r} cannot be imported; {advice}",
            metadata={"path": path[:200], "field": field},
            violations=[FieldViolation(field, advice)],
        )
    if len(set(paths)) != len(paths):
        raise InvalidArgumentError.of_field("adapter_import.files", "a path is named twice")
    if missing := [path for path in REQUIRED_FILES if path not in paths]:
        raise AdapterFileMissingError(
            f"the import lacks {', '.join(missing)}; name the folder that `PeftModel.save_pretrained` wrote",
            metadata={"path": ",".join(missing)},
        )
