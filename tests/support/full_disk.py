"""A real disk that is soon full: a tmpfs of a few megabytes, where this user may mount one."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator

import pytest


class SmallDisk:
    """`folder` is on it; `fill` leaves `free_bytes`, and `free` gives everything back."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, free_bytes: int = 0) -> None:
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while file.write(b"x" * 65_536):
                pass
        size = self._filler.stat().st_size
        with self._filler.open("ab") as file:
            file.truncate(max(0, size - free_bytes))

    def free(self) -> None:
        self._filler.unlink()


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, *, size_mib: int = 8) -> Iterator[SmallDisk]:
    """Mounts one at `folder` while the block runs. Skips the test where that is not permitted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
