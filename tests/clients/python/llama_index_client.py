"""LlamaIndex, with its model for OpenAI-compatible servers."""

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
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Booking(BaseModel):
    city: Literal["Oslo", "Rome"]
    nights: Literal[1, 2, 3]


def book(city: str, nights: int) -> str:
    return f"{city} {nights}"


MESSAGES = [ChatMessage(role="user", content=PROMPT)]
TOOL = FunctionTool.from_defaults(book, name="book", description="Books a room.", fn_schema=Booking)


def model(key=KEY, name=MODEL, max_tokens=MAX_TOKENS):
    return OpenAILike(
        model=name,
        api_base=URL,
        api_key=key,
        max_tokens=max_tokens,
        temperature=0,
        max_retries=0,
        context_window=2048,
        is_chat_model=True,
        is_function_calling_model=True,
        should_use_structured_outputs=True,
    )


def tool():
    llm = model(max_tokens=200)
    response = llm.chat_with_tools([TOOL], chat_history=MESSAGES, tool_required=True)
    call = llm.get_tool_calls_from_response(response)[0]
    return {"name": call.tool_name, "arguments": call.tool_kwargs}


def structured():
    return model(max_tokens=100).as_structured_llm(Booking).chat(MESSAGES).raw.model_dump()


def abort():
    stream = model(max_tokens=MANY_TOKENS).stream_chat([ChatMessage(role="user", content=STORY)])
    next(stream)
    stream.close()


report(
    chat=lambda: model().chat(MESSAGES).message.content,
    stream=lambda: [part.delta for part in model().stream_chat(MESSAGES) if part.delta],
    tool=tool,
    structured=structured,
    errors=lambda: [
        status_of(lambda: model(key=WRONG_KEY).chat(MESSAGES)),
        status_of(lambda: model(name=UNKNOWN_MODEL).chat(MESSAGES)),
        status_of(lambda: model().chat([ChatMessage(role="user", content=LONG[0]["content"])])),
    ],
    abort=abort,
)
