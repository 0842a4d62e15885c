"""The answer to every Delete method."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import Message

from luthierd.names import NamePattern
from luthierd.rpc.auth import current_principal
from luthierd.storage.deletions import Deletions

M = TypeVar("M", bound=Message)


async def delete(deletions: Deletions, pattern: NamePattern, request: Any, response: type[M]) -> M:
    """Deletes what the request names."""
    deleted = await deletions.delete(
        pattern,
        request.name,
        subject=current_principal().subject,
        cascade=request.cascade,
        validate_only=request.validate_only,
        etag=getattr(request, "etag", ""),
    )
    return response(deleted_names=deleted.names, kept_names=deleted.kept)
