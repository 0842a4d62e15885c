"""Callers that read slowly, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest
from luthierd.inference.completions.read_ahead import read_ahead
from luthierd.inference.domain.errors import ReaderTooSlowError


class Stream:
    """Numbers, made at once. `ended` is set when whatever it held is free again."""

    def __init__(self, count: int, *, fails: bool = False) -> None:
        self.count, self.fails = count, fails
        self.made, self.ended = 0, asyncio.Event()

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            while self.made < self.count:
                self.made += 1
                yield self.made
            if self.fails:
                raise ValueError
        finally:
            self.ended.set()


async def test_a_slot_ends_with_the_last_piece_and_not_when_somebody_has_read_it() -> None:
    stream = Stream(5)
    async with contextlib.aclosing(read_ahead(stream.items(), limit_s=5)) as items:
        first = await anext(items)
        await asyncio.wait_for(stream.ended.wait(), 5)
        assert [first, *[item async for item in items]] == [1, 2, 3, 4, 5]


async def test_who_does_not_read_gets_what_was_made_and_then_a_named_error() -> None:
    stream, read = Stream(100), []
    async with contextlib.aclosing(read_ahead(stream.items(), limit_s=0.01, max_unread=4)) as items:
        read.append(await anext(items))
        await asyncio.wait_for(stream.ended.wait(), 5)
        with pytest.raises(ReaderTooSlowError, match="0 s"):  # noqa: PT012
            async for item in items:
                read.append(item)
    assert read == [1, 2, 3, 4, 5]
    assert stream.made == 6


async def test_a_reader_in_time_gets_more_than_fits_between() -> None:
    stream = Stream(100)
    async with contextlib.aclosing(read_ahead(stream.items(), limit_s=5, max_unread=4)) as items:
        assert [item async for item in items] == list(range(1, 101))


async def test_a_failure_comes_after_the_pieces_before_it() -> None:
    read = []
    async with contextlib.aclosing(read_ahead(Stream(2, fails=True).items(), limit_s=5)) as items:
        with pytest.raises(ValueError):  # noqa: PT012
            async for item in items:
                read.append(item)
    assert read == [1, 2]


async def test_a_reader_who_leaves_ends_the_stream() -> None:
    stream = Stream(100)
    async with contextlib.aclosing(read_ahead(stream.items(), limit_s=5, max_unread=4)) as items:
        await anext(items)
    assert stream.ended.is_set()
    assert stream.made < 100
