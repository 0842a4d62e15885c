"""Files that a command reads and writes."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import AsyncIterator, Iterator
from typing import BinaryIO

import click

PATH = click.Path(path_type=pathlib.Path)
NEW_FILE = click.Path(dir_okay=False, path_type=pathlib.Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=pathlib.Path)


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A file to write that appears at `path` once it is complete, or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


async def save(pieces: AsyncIterator[bytes], path: pathlib.Path) -> None:
    """Writes pieces into a whole file."""
    with whole_file(path) as file:
        async for piece in pieces:
            file.write(piece)
