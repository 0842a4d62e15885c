"""One import of a base model, from its source to the blob store."""

from __future__ import annotations

import pathlib
import shutil

from luthierd.storage.blobs import BlobStore
from luthierd.trainer.base_model_files import import_folder, import_package, inspect
from luthierd.trainer.domain import BaseModelInfo, ImportSource


def import_base_model(source: ImportSource, folder: pathlib.Path, blobs: BlobStore) -> BaseModelInfo:
    """Lays the model out in `folder`, which is emptied first, and stores it. See `base_models` for the errors."""
    shutil.rmtree(folder, ignore_errors=True)
    if source.kind == "package":
        import_package(source.value, folder)
    else:
        import_folder(pathlib.Path(source.value), folder)
    return inspect(folder, blobs)
