"""What a worker process gets from the launcher."""

from __future__ import annotations

import os

import pytest
from luthierd.jobs.launcher import worker_environment


@pytest.mark.parametrize(
    ("worker_count", "set_to", "expected"), [(1, None, None), (2, None, "2"), (8, None, "1"), (2, "3", "3")]
)
def test_workers_share_the_cores_unless_the_operator_says_otherwise(
    worker_count: int, set_to: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if set_to:
        monkeypatch.setenv("OMP_NUM_THREADS", set_to)
    assert worker_environment(worker_count).get("OMP_NUM_THREADS") == expected
