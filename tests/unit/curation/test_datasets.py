"""Importing where the disk is full."""

from __future__ import annotations

import errno
import pathlib
from collections.abc import AsyncIterator

import pytest
from luthierd.curation.datasets import Datasets
from luthierd.curation.domain import Dataset
from luthierd.curation.sources.rows import ImportLimits
from luthierd.files import DiskFullError
from luthierd.paging import Page, PageRequest
from luthierd.storage.blobs import Blob, BlobStore


class FullDisk(BlobStore):
    def __init__(self, number: int) -> None:
        self._number = number

    def put_file(self, path: pathlib.Path) -> Blob:
        raise OSError(self._number, "cannot write")


class UntouchedStore:
    async def get(self, name: str) -> Dataset | None:
        raise AssertionError

    async def list(self, tenant: str, page: PageRequest) -> Page[Dataset]:
        raise AssertionError

    async def put_source(self, name: str, source_sha256: str, row_count: int) -> Dataset:
        raise AssertionError


async def chunks() -> AsyncIterator[bytes]:
    yield b'{"prompt": "2 + 2?", "completion": "4"}\n'


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, DiskFullError), (errno.EDQUOT, DiskFullError), (errno.EIO, OSError)]
)
async def test_a_full_disk_is_named_and_changes_nothing(
    tmp_path: pathlib.Path, number: int, error: type[Exception]
) -> None:
    datasets = Datasets(
        UntouchedStore(), FullDisk(number), limits=ImportLimits(), max_import_bytes=1000, spool_folder=tmp_path / "up"
    )
    with pytest.raises(error) as caught:
        await datasets.import_rows("tenants/acme", "sums", chunks(), expected_sha256="")
    assert isinstance(caught.value, DiskFullError) == (error is DiskFullError)
    assert not list((tmp_path / "up").iterdir())
