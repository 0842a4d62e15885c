"""Bytes on their way into an import: known digest first, then chunks, as often as a retry needs them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import pathlib
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, Protocol

from luthier.errors import InvalidArgumentError

CHUNK_BYTES = 512 * 1024  # api.md: 256 KiB to 1 MiB; the contract's bound is 1 MiB
SPOOL_BYTES = 16 * 1024 * 1024  # rows beyond this wait in a temporary file


class Source(Protocol):
    """Something that can be read more than once."""

    async def sha256(self) -> str: ...
    def chunks(self) -> AsyncIterator[bytes]: ...


PARQUET_MAGIC = b"PAR1"


def files(paths: Sequence[pathlib.Path]) -> Source:
    """JSONL files, or one Parquet file. `InvalidArgumentError` for a Parquet file among others: it stands alone."""
    for path in paths:
        with path.open("rb") as file:
            if file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC:
                if len(paths) > 1:
                    raise InvalidArgumentError(
                        f"{path} is a Parquet file, which is imported alone; import each into a separate dataset",
                        reason="PARQUET_AMONG_OTHERS",
                        metadata={"path": str(path)},
                    )
                return JsonlFiles(paths, is_text=False)
    return JsonlFiles(paths)


class JsonlFiles:
    """Files one after the other; a text without a final newline gets one, so that no two rows share a line."""

    def __init__(self, paths: Sequence[pathlib.Path], *, is_text: bool = True) -> None:
        self._paths, self._is_text = paths, is_text

    async def sha256(self) -> str:
        digest = hashlib.sha256()
        async for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    async def chunks(self) -> AsyncIterator[bytes]:
        for path in self._paths:
            last = b"\n"
            with await asyncio.to_thread(path.open, "rb") as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    last = chunk[-1:]
                    yield chunk
            if self._is_text and last != b"\n":
                yield b"\n"


class Spooled:
    """Rows that were written down once."""

    def __init__(self, file: IO[bytes], sha256: str) -> None:
        self._file = file
        self._sha256 = sha256

    async def sha256(self) -> str:
        return self._sha256

    async def chunks(self) -> AsyncIterator[bytes]:
        offset = 0
        while True:
            self._file.seek(offset)
            chunk = await asyncio.to_thread(self._file.read, CHUNK_BYTES)
            if not chunk:
                return
            offset += len(chunk)
            yield chunk


@contextlib.contextmanager
def spooled_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[Spooled]:
    """Rows as JSONL, in memory or, if they are many, in a temporary file that is gone afterwards."""
    digest = hashlib.sha256()
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n"
            digest.update(line)
            file.write(line)
        yield Spooled(file, digest.hexdigest())
