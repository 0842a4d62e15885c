"""Pydantic AI, with its OpenAI model."""

import asyncio
from typing import Literal

from checks import (
    KEY,
    LONG,
    MANY_TOKENS,
    MAX_TOKENS,
    MODEL,
    PROMPT,
    STORY,
    UNKNOWN_MODEL,
    URL,
    WRONG_KEY,
    report,
    status_of,
)
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Booking(BaseModel):
    city: Literal["Oslo", "Rome"]
    nights: Literal[1, 2, 3]


def agent(key=KEY, name=MODEL, max_tokens=MAX_TOKENS, **options):
    provider = OpenAIProvider(openai_client=AsyncOpenAI(base_url=URL, api_key=key, max_retries=0))
    settings = {"max_tokens": max_tokens, "temperature": 0}
    return Agent(OpenAIChatModel(name, provider=provider), model_settings=settings, retries=0, **options)


def ask(prompt=PROMPT, **options):
    return agent(**options).run_sync(prompt).output


def stream():
    async def parts():
        async with agent().run_stream(PROMPT) as streamed:
            return [part async for part in streamed.stream_text(delta=True, debounce_by=None)]

    return asyncio.run(parts())


def abort():
    async def leave():
        async with asyncio.timeout(30), agent(max_tokens=MANY_TOKENS).run_stream(STORY) as streamed:
            await anext(aiter(streamed.stream_text(delta=True, debounce_by=None)))
            await streamed.cancel()

    asyncio.run(leave())


report(
    chat=ask,
    stream=stream,
    tool=lambda: {
        "name": "book",
        "arguments": ask(max_tokens=200, output_type=ToolOutput(Booking, name="book")).model_dump(),
    },
    structured=lambda: ask(max_tokens=100, output_type=NativeOutput(Booking)).model_dump(),
    errors=lambda: [
        status_of(lambda: ask(key=WRONG_KEY)),
        status_of(lambda: ask(name=UNKNOWN_MODEL)),
        status_of(lambda: ask(LONG[0]["content"])),
    ],
    abort=abort,
)
