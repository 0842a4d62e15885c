"""The official OpenAI client."""

import json

from checks import (
    FORMAT,
    KEY,
    LONG,
    MANY_TOKENS,
    MAX_TOKENS,
    MESSAGES,
    MODEL,
    STORY_MESSAGES,
    TOOL,
    UNKNOWN_MODEL,
    URL,
    WRONG_KEY,
    report,
    status_of,
)
from openai import OpenAI

client = OpenAI(base_url=URL, api_key=KEY, max_retries=0)


def ask(using=client, model=MODEL, messages=MESSAGES, max_tokens=MAX_TOKENS, **options):
    return using.chat.completions.create(
        model=model, messages=messages, max_tokens=max_tokens, temperature=0, **options
    )


def tool():
    forced = {"type": "function", "function": {"name": "book"}}
    call = ask(tools=[TOOL], tool_choice=forced, max_tokens=100).choices[0].message.tool_calls[0]
    return {"name": call.function.name, "arguments": json.loads(call.function.arguments)}


def abort():
    with ask(messages=STORY_MESSAGES, stream=True, max_tokens=MANY_TOKENS) as stream:
        return next(iter(stream)).model


report(
    models=lambda: [model.id for model in client.models.list()],
    chat=lambda: ask().choices[0].message.content,
    stream=lambda: [c.choices[0].delta.content for c in ask(stream=True) if c.choices and c.choices[0].delta.content],
    tool=tool,
    structured=lambda: json.loads(ask(response_format=FORMAT, max_tokens=100).choices[0].message.content),
    errors=lambda: [
        status_of(lambda: ask(client.with_options(api_key=WRONG_KEY))),
        status_of(lambda: ask(model=UNKNOWN_MODEL)),
        status_of(lambda: ask(messages=LONG)),
    ],
    abort=abort,
)
