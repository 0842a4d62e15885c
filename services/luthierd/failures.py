"""Errors as jobs store them."""

from __future__ import annotations

from typing import Any

from luthierd.errors import LuthierError


def failure_of(error: LuthierError) -> dict[str, Any]:
    """`error` as a job stores it: the name of the gRPC status, reason, message and metadata."""
    return {"code": error.code, "reason": error.reason, "message": str(error), "metadata": error.metadata}
