"""Instructor, in its modes for tools and for JSON schemas."""

from typing import Literal

import instructor
from checks import (
    KEY,
    LONG,
    MANY_TOKENS,
    MESSAGES,
    MODEL,
    STORY_MESSAGES,
    UNKNOWN_MODEL,
    URL,
    WRONG_KEY,
    report,
    status_of,
)
from openai import OpenAI
from pydantic import BaseModel, ConfigDict


class Booking(BaseModel):
    model_config = ConfigDict(extra="forbid", title="book")
    city: Literal["Oslo", "Rome"]
    nights: Literal[1, 2, 3]


def ask(mode=instructor.Mode.TOOLS, model=MODEL, messages=MESSAGES, key=KEY):
    client = instructor.from_openai(OpenAI(base_url=URL, api_key=key, max_retries=0), mode=mode)
    return client.chat.completions.create(
        model=model, messages=messages, response_model=Booking, max_tokens=100, temperature=0, max_retries=0
    )


def abort():
    client = instructor.from_openai(OpenAI(base_url=URL, api_key=KEY, max_retries=0))
    stream = client.chat.completions.create(
        model=MODEL, messages=STORY_MESSAGES, response_model=None, max_tokens=MANY_TOKENS, stream=True
    )
    next(iter(stream))
    stream.close()


report(
    tool=lambda: {"name": "book", "arguments": ask().model_dump()},
    structured=lambda: ask(instructor.Mode.JSON_SCHEMA).model_dump(),
    errors=lambda: [
        status_of(lambda: ask(key=WRONG_KEY)),
        status_of(lambda: ask(model=UNKNOWN_MODEL)),
        status_of(lambda: ask(messages=LONG)),
    ],
    abort=abort,
)
