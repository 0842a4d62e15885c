"""Answers kept for repeated request ids."""

from __future__ import annotations

import pytest
from luthierd.storage.database import Database
from luthierd.storage.replays import RETENTION_S, Replay, SqlReplayStore


async def test_what_was_kept_comes_back_whole(database: Database) -> None:
    store = SqlReplayStore(database)
    await store.put("key", Replay("print", b"\x00\xff"))
    assert await store.get("key") == Replay("print", b"\x00\xff")
    assert await store.get("other") is None


async def test_the_latest_answer_under_a_key_wins(database: Database) -> None:
    store = SqlReplayStore(database)
    await store.put("key", Replay("1", b"1"))
    await store.put("key", Replay("2", b"2"))
    assert await store.get("key") == Replay("2", b"2")


async def test_an_answer_is_forgotten_after_its_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqlReplayStore(database)
    now = 1_000_000.0
    monkeypatch.setattr("luthierd.storage.replays.time.time", lambda: now)
    await store.put("old", Replay("1", b"1"))
    now += RETENTION_S
    assert await store.get("old") is None
