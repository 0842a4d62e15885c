"""Prompts are bounded before they are tokenised, and tenants take turns at reading them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import pytest
from luthierd.inference.completions.reading import MAX_TEXTS_PER_TOKEN, PIECE_CHARACTERS, Turns, check_fits
from luthierd.inference.domain.errors import PromptTooLongError
from luthierd.inference.engine.engine import Engine
from support.waiting import until

WINDOW, LONGEST_TOKEN = 6000, 16


class WordEngine:
    """A token is a word, or sixteen characters of a longer one. `pieces` has what it tokenised."""

    window, max_characters_per_token = WINDOW, LONGEST_TOKEN

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def tokenize(self, text: str, *, is_prompt: bool = True) -> tuple[int, ...]:
        self.pieces.append(text)
        return tuple(1 for word in text.split() for _ in range(0, len(word), LONGEST_TOKEN))


async def read(*texts: str) -> WordEngine:
    engine = WordEngine()
    with contextlib.suppress(PromptTooLongError):
        await check_fits(cast(Engine, engine), texts)
        engine.pieces.append("fits")
    return engine


@pytest.mark.parametrize(
    "texts",
    [
        ["x" * (WINDOW * LONGEST_TOKEN + 1)],
        ["x" * 60_000, "x" * 60_000],
        ["\u6211" * 100_000],
        [""] * (MAX_TEXTS_PER_TOKEN * WINDOW + 1),
    ],
    ids=["one", "sum", "chinese", "empty"],
)
async def test_what_no_tokenizer_could_make_fit_is_refused_without_one(texts: list[str]) -> None:
    assert (await read(*texts)).pieces == []


async def test_a_prompt_within_one_piece_is_left_to_the_tokenizer() -> None:
    assert (await read("a " * (PIECE_CHARACTERS // 2))).pieces == ["fits"]


async def test_a_long_prompt_is_read_as_far_as_the_window_can_take_and_no_further() -> None:
    found = await read("ab " * 31_000)
    assert "fits" not in found.pieces
    assert len(found.pieces) * PIECE_CHARACTERS <= 3 * WINDOW + 2 * PIECE_CHARACTERS


async def test_a_prompt_that_fills_the_window_exactly_passes() -> None:
    assert (await read("abcdefg " * WINDOW)).pieces[-1] == "fits"
    assert (await read("x" * (WINDOW * LONGEST_TOKEN))).pieces[-1] == "fits"
    assert (await read(*["abcdefg hi"] * (WINDOW // 2))).pieces[-1] == "fits"


async def test_a_reader_who_leaves_ends_the_reading() -> None:
    engine: Any = WordEngine()
    reading = asyncio.create_task(check_fits(engine, ["abcdefg " * WINDOW]))
    await until(lambda: engine.pieces, interval_s=0)
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    assert len(engine.pieces) < 6


async def test_a_tenant_reads_one_prompt_at_a_time_and_others_are_served_between() -> None:
    turns, order = Turns(2), list[str]()
    gates = {name: asyncio.Event() for name in ("a1", "a2", "a3", "b1", "c1")}

    async def read_prompt(name: str) -> None:
        async with turns.turn(name[0]):
            order.append(name)
            await gates[name].wait()

    tasks = [asyncio.create_task(read_prompt(name)) for name in gates]
    await until(lambda: len(order) == 2)
    assert order == ["a1", "b1"]
    gates["b1"].set()
    await until(lambda: "c1" in order)
    tasks[1].cancel()  # a2 gives up
    gates["a1"].set()
    await until(lambda: "a3" in order)
    for gate in gates.values():
        gate.set()
    await asyncio.wait(tasks)
    assert not vars(turns)["_own"]
