"""The bytes of an import: their digest first, then chunks, as often as retries need them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import pathlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from luthier.errors import InvalidArgumentError

CHUNK_BYTES = 512 * 1024  # the contract allows 1 MiB
SPOOL_BYTES = 16 * 1024 * 1024  # rows beyond this go to a temporary file
PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True)
class Source:
    """Something that can be read more than once."""

    sha256: str
    chunks: Callable[[], AsyncIterator[bytes]]


async def files(paths: Sequence[pathlib.Path]) -> Source:
    """JSONL files, or one Parquet file. `InvalidArgumentError` for a Parquet file among others."""
    parquet = [path for path in paths if await asyncio.to_thread(_is_parquet, path)]
    if parquet and len(paths) > 1:
        raise InvalidArgumentError(
            f"{parquet[0]} is a Parquet file; import each Parquet file alone, into its own dataset",
            reason="PARQUET_AMONG_OTHERS",
            metadata={"path": str(parquet[0])},
        )
    chunks = functools.partial(_file_chunks, paths, is_text=not parquet)
    digest = hashlib.sha256()
    async for chunk in chunks():
        digest.update(chunk)
    return Source(digest.hexdigest(), chunks)


@contextlib.contextmanager
def spooled_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[Source]:
    """Rows as JSONL, in memory or, if there are many, in a temporary file that is deleted afterwards."""
    digest = hashlib.sha256()
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n"
            digest.update(line)
            file.write(line)
        yield Source(digest.hexdigest(), functools.partial(_spooled_chunks, file))


def _is_parquet(path: pathlib.Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC


async def _file_chunks(paths: Sequence[pathlib.Path], *, is_text: bool) -> AsyncIterator[bytes]:
    """Files one after the other; a text without a final newline gets one, so that no two rows share a line."""
    for path in paths:
        last = b"\n"
        with await asyncio.to_thread(path.open, "rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                last = chunk[-1:]
                yield chunk
        if is_text and last != b"\n":
            yield b"\n"


async def _spooled_chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    await asyncio.to_thread(file.seek, 0)
    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield chunk
