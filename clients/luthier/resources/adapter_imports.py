"""Imports of adapters that were trained elsewhere (the trainer service)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pathlib
from collections.abc import Callable

from luthier import names
from luthier.errors import DataLossError, InvalidArgumentError
from luthier.resources.job_resource import JobResource
from luthier.resources.uploading import CHUNK_BYTES
from luthier.trainer.v1 import adapter_import_pb2 as pb
from luthier.trainer.v1 import adapter_import_service_pb2 as api
from luthier.trainer.v1 import adapter_import_service_pb2_grpc as rpc

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PICKLE = "adapter_model.bin"
FILES = (CONFIG, WEIGHTS, "tokenizer_config.json", "chat_template.jinja", "README.md", "lineage.json", "reference.json")
"""What is taken of a folder; the contract lists them."""

Sent = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that the service holds of it, and its size."""


class AdapterImports(JobResource["rpc.AdapterImportServiceAsyncStub", pb.AdapterImport, pb.AdapterImportEvent]):
    _make_stub = rpc.AdapterImportServiceStub
    _api, _job, _field = api, "AdapterImport", "adapter_import"

    async def create(
        self,
        adapter: str,
        folder: str | os.PathLike[str],
        *,
        base_model: str,
        adapter_import_id: str = "",
        on_sent: Sent | None = None,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.AdapterImport:
        """Sends the files of a LoRA adapter that `PeftModel.save_pretrained` wrote into `folder`, and starts the import
        that adds a revision to `adapter`. After an interruption the same call sends only what is missing.
        """
        parent = names.parse_as(adapter, "adapter").parent
        found = await asyncio.to_thread(_files_of, pathlib.Path(folder))
        files = [
            pb.AdapterFile(path=path.name, sha256=await self._send(parent, path, on_sent=on_sent)) for path in found
        ]
        wanted = pb.AdapterImport(adapter=adapter, base_model=base_model, files=files)
        request = api.CreateAdapterImportRequest(
            parent=parent, adapter_import=wanted, adapter_import_id=adapter_import_id, request_id=request_id
        )
        return (await self._call(self._stub.CreateAdapterImport, request, timeout_s)).adapter_import

    async def _send(self, parent: str, path: pathlib.Path, *, on_sent: Sent | None) -> str:
        """Sends what the service does not hold of a file yet; its sha256. `DataLossError` if the file changes."""
        with await asyncio.to_thread(path.open, "rb") as file:
            digest = await asyncio.to_thread(hashlib.file_digest, file, "sha256")
            size_bytes = await asyncio.to_thread(file.seek, 0, os.SEEK_END)
            request = api.WriteAdapterFileRequest(parent=parent, sha256=digest.hexdigest(), size_bytes=size_bytes)
            held_bytes = (await self._call(self._stub.WriteAdapterFile, request)).committed_bytes
            while held_bytes < size_bytes:
                await asyncio.to_thread(file.seek, held_bytes)
                request.offset_bytes = held_bytes
                request.data = await asyncio.to_thread(file.read, CHUNK_BYTES)
                committed_bytes = (await self._call(self._stub.WriteAdapterFile, request)).committed_bytes
                if committed_bytes == held_bytes:
                    raise DataLossError(
                        f"{path.name} changed while it was sent; try again",
                        reason="FILE_CHANGED",
                        metadata={"path": path.name},
                    )
                held_bytes = committed_bytes
                if on_sent is not None:
                    on_sent(path.name, held_bytes, size_bytes)
        return digest.hexdigest()


def _files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files to send. `InvalidArgumentError` for a folder without config and weights in safetensors."""
    found = [folder / name for name in FILES if (folder / name).is_file()]
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        advice = "name the folder that `PeftModel.save_pretrained` wrote"
        if WEIGHTS in missing and (folder / PICKLE).is_file():
            advice = (
                f"{PICKLE} is a pickle, which can run code when it is read: save the adapter as safetensors, "
                "`PeftModel.save_pretrained(folder, safe_serialization=True)`"
            )
        raise InvalidArgumentError(
            f"{folder} has no {' and no '.join(missing)}; {advice}",
            reason="ADAPTER_FILE_MISSING",
            metadata={"path": str(folder), "missing": ",".join(missing)},
        )
    return found
