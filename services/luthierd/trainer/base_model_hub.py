"""Fetches a base model from a hub that speaks Hugging Face's protocol.

The hub is the operator's choice: `HF_ENDPOINT`, and `HF_TOKEN` for what is not public, in the trainer's environment. A
request names a repository and a revision, never an address. Only weights in safetensors and files of text are fetched,
all of one commit; what an earlier attempt fetched is not fetched again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from luthierd.errors import FailedPreconditionError, UnavailableError
from luthierd.files import DiskFullError
from luthierd.storage.blobs import CHUNK_BYTES
from luthierd.trainer.base_model_files import (
    COPIED,
    INDEX,
    BaseModelInvalidError,
    check_description,
    weight_files,
)

MAX_TEXT_BYTES = 256 * 1024 * 1024
"""Of a file that is not weights; the largest tokenizers have 40 MB."""
SPARE_BYTES = 256 * 1024 * 1024


class HubRefusedError(FailedPreconditionError):
    """The hub has no such repository or revision, or does not show it to this installation."""

    reason = "HUB_REFUSED"


class HubUnavailableError(UnavailableError):
    """The hub cannot be reached, or the connection broke again and again."""

    reason = "HUB_UNAVAILABLE"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit. `sha256`: of one that the hub keeps by digest, as it does weights; else empty."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Fetched:
    """A checkpoint's folder, and the commit that it was."""

    folder: pathlib.Path
    commit: str


def fetch_model(repository: str, revision: str, root: pathlib.Path, *, endpoint: str | None = None) -> Fetched:
    """Fetches into a folder below `root`. `endpoint` None: that of the environment.

    HubRefusedError, HubUnavailableError, BaseModelInvalidError, DiskFullError.
    """
    _quiet()
    import huggingface_hub

    hub = huggingface_hub.HfApi(endpoint=endpoint)
    with _translated(repository, revision, hub.endpoint):
        info = hub.model_info(repository, revision=revision, files_metadata=True)
    files = {one.name: one for one in map(_remote_file, info.siblings or ()) if "/" not in one.name}
    commit = str(info.sha)
    folder = root / commit
    if "adapter_config.json" in files and "config.json" not in files:
        raise BaseModelInvalidError(
            f"{repository} is an adapter, not a model; download it and use `luthier adapters import`",
            repository=repository,
        )

    def fetch(file: RemoteFile) -> None:
        url = huggingface_hub.hf_hub_url(repository, file.name, revision=commit, endpoint=hub.endpoint)
        with _translated(repository, revision, hub.endpoint):
            _download(url, folder / file.name, size_bytes=file.size_bytes)
        if file.sha256 and _sha256(folder / file.name) != file.sha256:
            (folder / file.name).unlink()
            raise HubUnavailableError(
                f"{file.name} of {repository} arrived damaged; import it again", metadata={"file": file.name}
            )

    for name in COPIED:
        if name in files:
            if files[name].size_bytes > MAX_TEXT_BYTES:
                raise BaseModelInvalidError(f"{name} is larger than {MAX_TEXT_BYTES} bytes", file=name)
            fetch(files[name])
    check_description(folder)
    index = folder / INDEX
    weights = [files[name] for name in weight_files(files, index=index if index.is_file() else None)]
    _check_room(folder, weights)
    for file in weights:
        fetch(file)
    return Fetched(folder, commit)


def _download(url: str, target: pathlib.Path, *, size_bytes: int) -> None:
    """Fetches what is missing of a file of a commit. The library's download starts again in a new process."""
    from huggingface_hub.file_download import get_hf_file_metadata, http_get
    from huggingface_hub.utils._headers import build_hf_headers

    if target.exists() and target.stat().st_size == size_bytes:
        return
    found, headers = get_hf_file_metadata(url), build_hf_headers()
    size_bytes = found.size or size_bytes  # a mirror may list files without their sizes
    if urlsplit(found.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # a signed address elsewhere needs none
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as file:
        if file.tell() > size_bytes:
            file.seek(0)
            file.truncate()
        http_get(found.location, file, resume_size=file.tell(), headers=headers, expected_size=size_bytes)
    part.replace(target)


def _quiet() -> None:
    """For the library, before its first import. Without its transfer by chunks a download can be resumed anywhere.
    Weights come from signed addresses, which must not be logged.
    """
    for name in ("huggingface_hub", "httpx2"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")


def _remote_file(sibling: Any) -> RemoteFile:
    return RemoteFile(
        str(sibling.rfilename), int(sibling.size or 0), str(sibling.lfs.sha256) if sibling.lfs is not None else ""
    )


@contextlib.contextmanager
def _translated(repository: str, revision: str, endpoint: str) -> Iterator[None]:
    """The library's errors as ours. Their texts are left out: they can hold signed addresses."""
    from httpx2 import HTTPError
    from huggingface_hub import errors

    metadata = {"repository": repository, "revision": revision, "endpoint": endpoint}
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubRefusedError(
            f"{repository} asks for its terms to be accepted; accept them at {endpoint}/{repository} and give the "
            "trainer a token of that account: HF_TOKEN",
            metadata=metadata,
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubRefusedError(f"{repository} has no revision {revision} at {endpoint}", metadata=metadata) from error
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError) as error:
        raise HubRefusedError(
            f"there is no {repository} at {endpoint} that this installation may read; check the name, and for a "
            "private one set HF_TOKEN in the trainer's environment",
            metadata=metadata,
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise HubUnavailableError(
            "the trainer is told to stay offline; start it without HF_HUB_OFFLINE", metadata=metadata
        ) from error
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError("no room for the model; free some space and import it again") from error
        raise HubUnavailableError(
            f"{endpoint} did not answer to the end ({type(error).__name__}); import the model again under the same "
            "name: it goes on where it stopped",
            metadata=metadata,
        ) from error


def _check_room(folder: pathlib.Path, weights: list[RemoteFile]) -> None:
    """DiskFullError unless there is room for what is missing, and for the copy in the blob store."""
    total = sum(file.size_bytes for file in weights)
    here = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed, free = 2 * total - min(here, total) + SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFullError(
            f"the model needs {needed} bytes below {folder.parent.parent}, of which {free} are free; free some space "
            "and import it again",
            metadata={"needed_bytes": str(needed), "free_bytes": str(free)},
        )


def _sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
