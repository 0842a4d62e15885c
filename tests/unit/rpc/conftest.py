"""What the server logs, as its log collector would read it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from luthierd.logs import JsonFormatter


@pytest.fixture
def log_text() -> Iterator[Callable[[], str]]:
    """Gives all that was logged so far, as it is written to stderr."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("curation"))
    logger = logging.getLogger("luthierd")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream.getvalue
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def log_events(log_text: Callable[[], str]) -> Callable[[], list[dict[str, Any]]]:
    """Gives the logged events."""
    return lambda: [json.loads(line) for line in log_text().splitlines()]
