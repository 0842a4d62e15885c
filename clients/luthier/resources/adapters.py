"""Adapters and their immutable revisions (the trainer service)."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import AsyncIterator, Callable

from luthier.errors import AlreadyExistsError, DataLossError
from luthier.resources.resource import DeletableResource, Deletion, joined
from luthier.trainer.v1 import adapter_pb2 as pb
from luthier.trainer.v1 import adapter_service_pb2 as api
from luthier.trainer.v1 import adapter_service_pb2_grpc as rpc

Received = Callable[[str, int, int], None]
"""Called with a file's name, the bytes of it that are here, and its size."""


class Adapters(DeletableResource["rpc.AdapterServiceAsyncStub"]):
    _make_stub = rpc.AdapterServiceStub
    _delete_request = api.DeleteAdapterRequest

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.Adapter]:
        """The adapters of `tenants/{t}`, by name."""
        request = api.ListAdaptersRequest(parent=parent, page_size=page_size)
        return self._pages(self._stub.ListAdapters, request, lambda page: page.adapters)

    async def get_revision(self, name: str, *, timeout_s: float | None = None) -> pb.AdapterRevision:
        request = api.GetAdapterRevisionRequest(name=name)
        return (await self._call(self._stub.GetAdapterRevision, request, timeout_s)).revision

    def list_revisions(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.AdapterRevision]:
        """The revisions of `tenants/{t}/adapters/{a}`, newest first."""
        request = api.ListAdapterRevisionsRequest(parent=parent, page_size=page_size)
        return self._pages(self._stub.ListAdapterRevisions, request, lambda page: page.revisions)

    async def delete_revision(
        self,
        name: str,
        *,
        cascade: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Deletion:
        """Deletes a revision that no deployment holds; see docs/storage.md."""
        request = api.DeleteAdapterRevisionRequest(
            name=name, cascade=cascade, validate_only=validate_only, request_id=request_id
        )
        return await self._delete(self._stub.DeleteAdapterRevision, request, timeout_s)

    def read(self, name: str, path: str = "", *, sha256: str = "") -> AsyncIterator[bytes]:
        """A file of a revision, piece by piece, or its manifest; `DataLossError` if it arrives damaged, or with another
        digest than `sha256`.
        """
        request = api.ReadAdapterRevisionRequest(name=name, path=path)
        what = f"{path or 'the manifest'} of {name}"
        return self._blob(self._stub.ReadAdapterRevision, request, what=what, sha256=sha256)

    async def export(
        self, name: str, folder: str | os.PathLike[str], *, on_received: Received | None = None
    ) -> pb.AdapterRevision:
        """Writes a revision's files, which `PeftModel.from_pretrained` loads, into a new `folder`: all of them, with
        the right digests, or nothing. `AlreadyExistsError` if there is anything at `folder`, `DataLossError`.
        """
        target = await asyncio.to_thread(pathlib.Path(folder).absolute)
        if await asyncio.to_thread(os.path.lexists, target):
            raise AlreadyExistsError(
                f"{target} exists, and nothing is overwritten; name a folder that does not exist",
                reason="FOLDER_EXISTS",
                metadata={"path": str(target)},
            )
        revision = await self.get_revision(name)
        files = _files_of(await joined(self.read(name, sha256=revision.sha256)))
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        await asyncio.to_thread(part.mkdir, parents=True)
        try:
            for path, (sha256, size_bytes) in files.items():
                with await asyncio.to_thread((part / path).open, "wb") as file:
                    async for piece in self.read(name, path, sha256=sha256):
                        await asyncio.to_thread(file.write, piece)
                        if on_received is not None:
                            on_received(path, file.tell(), size_bytes)
            await asyncio.to_thread(part.rename, target)
        finally:
            await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)
        return revision


def _files_of(manifest: bytes) -> dict[str, tuple[str, int]]:
    """Digest and size of each file of a revision; `DataLossError` for a path that is not a plain name."""
    entries = json.loads(manifest)["files"].items()
    files = {str(path): (str(one["sha256"]), int(one["size_bytes"])) for path, one in entries}
    for path in files:
        if pathlib.PurePath(path).name != path or path == "..":
            raise DataLossError(
                f"the revision names a file {path!r}, which is not a plain name",
                reason="MANIFEST_INVALID",
                metadata={"path": path},
            )
    return files
