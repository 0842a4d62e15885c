"""LiteLLM, with the provider for OpenAI-compatible servers."""

import json

import litellm
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

litellm.telemetry = False


def ask(model=MODEL, messages=MESSAGES, max_tokens=MAX_TOKENS, key=KEY, **options):
    return litellm.completion(
        model=f"openai/{model}",
        api_base=URL,
        api_key=key,
        messages=messages,
        max_tokens=max_tokens,
        temperature=0,
        max_retries=0,
        **options,
    )


def tool():
    call = ask(tools=[TOOL], tool_choice="required", max_tokens=200).choices[0].message.tool_calls[0]
    return {"name": call.function.name, "arguments": json.loads(call.function.arguments)}


def abort():
    stream = ask(messages=STORY_MESSAGES, stream=True, max_tokens=MANY_TOKENS)
    next(stream)
    stream.completion_stream.close()


report(
    models=lambda: litellm.get_valid_models(
        check_provider_endpoint=True, custom_llm_provider="openai", api_key=KEY, api_base=URL.removesuffix("/v1")
    ),
    chat=lambda: ask().choices[0].message.content,
    stream=lambda: [part.choices[0].delta.content for part in ask(stream=True) if part.choices[0].delta.content],
    tool=tool,
    structured=lambda: json.loads(ask(response_format=FORMAT, max_tokens=100).choices[0].message.content),
    errors=lambda: [
        status_of(lambda: ask(key=WRONG_KEY)),
        status_of(lambda: ask(model=UNKNOWN_MODEL)),
        status_of(lambda: ask(messages=LONG)),
    ],
    abort=abort,
)
