"""The fields of each request: their types, their bounds, and what is refused by name.

OpenAI's fields and vLLM's own are known. A value must have its field's type (64, not "64"), so that what is counted
before a request is what the engine reads after it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from luthierd.errors import InvalidArgumentError
from luthierd.inference.domain.completion import MAX_CHOICES, MAX_INPUTS, MAX_MESSAGES, MAX_TOOLS
from luthierd.text import nearest

MAX_NAME = 256
"""Characters of a name: of a model, a tool, an author."""
MAX_DETOKENIZED = 64 * 1024

Text = str | UnsetType
Flag = bool | UnsetType
Object = dict[str, Any] | UnsetType
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)] | UnsetType
Alternatives = Annotated[int, Meta(ge=0, le=20)] | UnsetType
"""Of a token; vLLM's own limit by default (`max_logprobs`), and OpenAI's."""
Penalty = Annotated[float, Meta(ge=-2, le=2)] | UnsetType
Stop = Annotated[str, Meta(min_length=1, max_length=1024)]
Prompts = str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1)]
Labels = dict[str, str] | UnsetType

HINTS = {
    "session_id": "send the header x-luthier-session-id instead",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "previous_response_id": "responses are not stored; send the whole conversation as input",
    "conversation": "responses are not stored; send the whole conversation as input",
    "dimensions": "an embedding has as many numbers as the model's states",
    **dict.fromkeys(
        ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend"),
        "use structured_outputs",
    ),
}
REFUSED = {
    *HINTS,
    "audio",
    "background",
    "cache_salt",
    "chat_template",
    "data_parallel_rank",
    "ec_transfer_params",
    "kv_transfer_params",
    "length_penalty",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "previous_input_messages",
    "priority",
    "prompt_embeds",
    "request_id",
    "suffix",
    "use_beam_search",
    "verbosity",
    "vllm_xargs",
    "web_search_options",
}
"""Fields of OpenAI or vLLM that are not served here, some because they would affect more than the request itself."""


class Part(msgspec.Struct):
    """A part of a message's content. A base model reads text only."""

    type: Literal["text", "input_text", "output_text", "reasoning_text", "refusal"]
    text: Text = UNSET
    refusal: Text | None = UNSET


class Call(msgspec.Struct):
    """A function's name and arguments."""

    name: Name
    arguments: Text = UNSET


class ToolCall(msgspec.Struct):
    """A call that the assistant made."""

    function: Call
    id: Text | None = UNSET
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct):
    """One message; other fields, like the `annotations` of an answer that is sent back, are left out."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | UnsetType | None = UNSET
    name: Name | UnsetType | None = UNSET
    tool_call_id: Text | None = UNSET
    tool_calls: list[ToolCall] | UnsetType | None = UNSET
    reasoning: Text | None = UNSET
    reasoning_content: Text | None = UNSET
    refusal: Text | None = UNSET


class Item(msgspec.Struct):
    """What is checked of an item of a /v1/responses input; it reaches the engine as it is."""

    type: Name | UnsetType = UNSET
    role: Literal["system", "developer", "user", "assistant"] | UnsetType | None = UNSET
    content: str | list[Part] | UnsetType | None = UNSET


class Function(msgspec.Struct):
    """What a tool can do."""

    name: Name
    description: Text | None = UNSET
    parameters: Object | None = UNSET
    strict: Flag | None = UNSET


class Tool(msgspec.Struct):
    """A function that the model may call."""

    function: Function
    type: Literal["function"] = "function"


class ResponseTool(Function, kw_only=True):
    """The same, as /v1/responses spells it."""

    type: Literal["function"]


class StreamOptions(msgspec.Struct):
    """What a stream says besides the answer."""

    include_usage: Flag | None = UNSET
    continuous_usage_stats: Flag | None = UNSET
    include_obfuscation: Flag | None = UNSET


class Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every request has."""

    model: Name
    user: Text = UNSET


class Sampled(Body, kw_only=True):
    """How the tokens of an answer are chosen."""

    frequency_penalty: Penalty = UNSET
    ignore_eos: Flag = UNSET
    include_stop_str_in_output: Flag = UNSET
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | UnsetType = UNSET
    metadata: Labels = UNSET
    min_p: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    presence_penalty: Penalty = UNSET
    prompt_cache_key: Text = UNSET
    prompt_cache_retention: Text = UNSET
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | UnsetType = UNSET
    safety_identifier: Text = UNSET
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | UnsetType = UNSET
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | UnsetType = UNSET
    skip_special_tokens: Flag = UNSET
    stop: Stop | Annotated[list[Stop], Meta(max_length=16)] | UnsetType = UNSET
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=256)] | UnsetType = UNSET
    store: Flag = UNSET
    stream: Flag = UNSET
    stream_options: StreamOptions | UnsetType = UNSET
    structured_outputs: Object = UNSET
    temperature: Annotated[float, Meta(ge=0, le=10)] | UnsetType = UNSET
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | UnsetType = UNSET
    top_p: Annotated[float, Meta(gt=0, le=1)] | UnsetType = UNSET


class Choices(Sampled, kw_only=True):
    """What the two kinds of completions share."""

    add_special_tokens: Flag = UNSET
    allowed_token_ids: list[TokenId] | UnsetType = UNSET
    bad_words: Annotated[list[Stop], Meta(max_length=256)] | UnsetType = UNSET
    echo: Flag = UNSET
    logprob_token_ids: Annotated[list[TokenId], Meta(max_length=256)] | UnsetType = UNSET
    max_tokens: Count = UNSET
    min_tokens: Count = UNSET
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | UnsetType = UNSET
    prompt_logprobs: Alternatives = UNSET
    repetition_detection: Object = UNSET
    response_format: Object = UNSET
    return_token_ids: Flag = UNSET
    return_tokens_as_token_ids: Flag = UNSET
    spaces_between_special_tokens: Flag = UNSET
    stream_interval: Annotated[int, Meta(ge=1, le=2**31 - 1)] | UnsetType = UNSET
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | UnsetType = UNSET
    truncation_side: Literal["left", "right"] | UnsetType = UNSET


class Chat(Choices, kw_only=True):
    """/v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    add_generation_prompt: Flag = UNSET
    chat_template_kwargs: Object = UNSET
    continue_final_message: Flag = UNSET
    documents: list[dict[str, str]] | UnsetType = UNSET
    include_reasoning: Flag = UNSET
    logprobs: Flag = UNSET
    max_completion_tokens: Count = UNSET
    modalities: list[Literal["text"]] | UnsetType = UNSET
    parallel_tool_calls: Flag = UNSET
    prediction: Object = UNSET
    reasoning_effort: Text = UNSET
    return_prompt_text: Flag = UNSET
    thinking_token_budget: Count = UNSET
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | UnsetType = UNSET
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | UnsetType = UNSET
    top_logprobs: Alternatives = UNSET


class Completions(Choices, kw_only=True):
    """/v1/completions."""

    prompt: Prompts
    best_of: Annotated[int, Meta(ge=1, le=1)] | UnsetType = UNSET
    logprobs: Alternatives = UNSET


class Responses(Sampled, kw_only=True):
    """/v1/responses; nothing is stored."""

    input: str | Annotated[list[Item], Meta(min_length=1, max_length=MAX_MESSAGES)]
    chat_template_kwargs: Object = UNSET
    include: list[str] | UnsetType = UNSET
    include_reasoning: Flag = UNSET
    instructions: Text = UNSET
    max_output_tokens: Count = UNSET
    parallel_tool_calls: Flag = UNSET
    reasoning: Object = UNSET
    text: Object = UNSET
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | UnsetType = UNSET
    tools: Annotated[list[ResponseTool], Meta(max_length=MAX_TOOLS)] | UnsetType = UNSET
    top_logprobs: Alternatives = UNSET
    truncation: Literal["auto", "disabled"] | UnsetType = UNSET


class Embeddings(Body, kw_only=True):
    """/v1/embeddings."""

    input: Prompts
    encoding_format: Literal["float", "base64"] = "float"


class Tokenize(Body, kw_only=True):
    """/tokenize, of `prompt` or `messages`."""

    prompt: Text = UNSET
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)] | UnsetType = UNSET
    add_generation_prompt: Flag = UNSET
    add_special_tokens: Flag = UNSET
    chat_template_kwargs: Object = UNSET
    continue_final_message: Flag = UNSET
    return_token_strs: Flag = UNSET
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | UnsetType = UNSET


class Detokenize(Body, kw_only=True):
    """/detokenize."""

    tokens: Annotated[list[TokenId], Meta(max_length=MAX_DETOKENIZED)]


VALID = {
    "role": "choose system, developer, user, assistant or tool",
    "type": "only text parts and functions are served",
}
"""Of fields within a list, by name."""

_PLACE = re.compile(r"(?P<problem>.*) - at `\$\.?(?P<field>.*)`")
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`(?: - at `\$\.(?P<place>.*)`)?")


def checked(body: dict[str, Any], kind: type[Body]) -> dict[str, Any]:
    """The fields of `body` that are given; null stands for a field's default. InvalidArgumentError names the field."""
    given = {
        name: value for name, value in body.items() if value is not None and (name, value) != ("background", False)
    }
    known = kind.__struct_fields__
    for name in given.keys() - set(known):
        raise InvalidArgumentError.of_field(name[:MAX_NAME], _unknown(name[:MAX_NAME], known))
    try:
        made = dict(msgspec.to_builtins(msgspec.convert(given, kind)))
    except msgspec.ValidationError as error:
        if missing := _MISSING.fullmatch(str(error)):
            field = ".".join(filter(None, (missing["place"], missing["field"])))
            raise InvalidArgumentError.of_field(field, "it is required") from error
        place = _PLACE.fullmatch(str(error))
        field, problem = (place["field"], place["problem"]) if place else ("body", str(error))
        if problem.startswith("Invalid enum") and (advice := VALID.get(field.rpartition(".")[2])):
            problem += f"; {advice}"
        raise InvalidArgumentError.of_field(field, problem[0].lower() + problem[1:].replace("`", "")) from error
    if kind is Completions:
        prompts_of(made["prompt"], "prompt")
    return {**made, "input": given["input"]} if kind is Responses else made


def _unknown(name: str, known: tuple[str, ...]) -> str:
    if name in REFUSED:
        return f"this field is not supported; {HINTS.get(name, 'leave it out')}"
    near = nearest(name, known)
    return f"there is no such field; did you mean {near}?" if near else "there is no such field; leave it out"


def prompts_of(given: Any, field: str) -> list[str | tuple[int, ...]]:
    """The texts or lists of token ids of a `prompt` or an embedding's `input`. InvalidArgumentError."""
    several = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    kind = type(several[0])
    if not all(type(one) is kind and (kind is str or {*map(type, one)} <= {int}) for one in several):
        raise InvalidArgumentError.of_field(field, "give a text, its token ids, or a list of either")
    if len(several) > MAX_INPUTS:
        raise InvalidArgumentError.of_field(field, f"there are {len(several)}; at most {MAX_INPUTS}")
    if not all(several):
        raise InvalidArgumentError.of_field(field, "one of them is empty")
    return [one if isinstance(one, str) else tuple(one) for one in several]
