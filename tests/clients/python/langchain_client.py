"""langchain-openai."""

from checks import (
    BOOKING,
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
from langchain_openai import ChatOpenAI


def model(key=KEY, name=MODEL, max_tokens=MAX_TOKENS):
    return ChatOpenAI(base_url=URL, api_key=key, model=name, max_tokens=max_tokens, temperature=0, max_retries=0)


def tool():
    call = model(max_tokens=100).bind_tools([TOOL], tool_choice="book").invoke(MESSAGES).tool_calls[0]
    return {"name": call["name"], "arguments": call["args"]}


def abort():
    stream = model(max_tokens=MANY_TOKENS).stream(STORY_MESSAGES)
    next(stream)
    stream.close()


report(
    chat=lambda: model().invoke(MESSAGES).content,
    stream=lambda: [part.content for part in model().stream(MESSAGES) if part.content],
    tool=tool,
    structured=lambda: (
        model(max_tokens=100)
        .with_structured_output({"title": "booking", **BOOKING}, method="json_schema")
        .invoke(MESSAGES)
    ),
    errors=lambda: [
        status_of(lambda: model(key=WRONG_KEY).invoke(MESSAGES)),
        status_of(lambda: model(name=UNKNOWN_MODEL).invoke(MESSAGES)),
        status_of(lambda: model().invoke(LONG)),
    ],
    abort=abort,
)
