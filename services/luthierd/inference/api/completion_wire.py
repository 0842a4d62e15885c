"""Requests of the InferenceService to domain values, checked once, and answers to responses."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from luthier.inference.v1 import inference_service_pb2 as pb

from luthierd.errors import InvalidArgumentError, LuthierError
from luthierd.inference.completions.completions import Batch
from luthierd.inference.domain.completion import (
    MAX_CHOICES,
    MAX_INPUTS,
    MAX_MESSAGES,
    MAX_STRUCTURE_BYTES,
    MAX_STRUCTURE_CHOICES,
    MAX_TOOLS,
    Completion,
    Prompt,
    Sampling,
    Structure,
    Target,
    TokenIds,
    ToolCall,
    Turn,
)
from luthierd.names import ADAPTER_REVISION, BASE_MODEL, DEPLOYMENT
from luthierd.rpc.status import status_of
from luthierd.rpc.wire import from_proto, to_proto

DOMAIN = "inference.luthier.dev"
ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_STOPS = 8
MAX_TOP_K = 1000
MAX_TOP_LOGPROBS = 20
"""vLLM's own default limit (`max_logprobs`), and OpenAI's."""

_PATTERNS = {Target.DEPLOYMENT: DEPLOYMENT, Target.BASE_MODEL: BASE_MODEL, Target.ADAPTER_REVISION: ADAPTER_REVISION}


def target_from_proto(target: pb.Target) -> Target:
    """InvalidArgumentError for an invalid name, or none."""
    kind = target.WhichOneof("target")
    if kind is None:
        raise InvalidArgumentError.of_field("target", "name a deployment, a base model or an adapter revision")
    name = getattr(target, kind)
    _PATTERNS[kind].parse(name, field=f"target.{kind}")
    return Target(kind, name)


def sampling_from_proto(message: pb.Sampling, *, is_unary: bool = False) -> Sampling:
    """InvalidArgumentError names the field that is out of range. Several choices need `is_unary`."""
    sampling = from_proto(Sampling, message, structure=structure_from_proto(message))
    for field, is_valid, wanted in (
        ("max_tokens", sampling.max_tokens >= 1, "1 or more"),
        ("temperature", math.isfinite(sampling.temperature) and 0 <= sampling.temperature <= 10, "from 0 to 10"),
        ("top_p", 0 < sampling.top_p <= 1, "above 0 and at most 1"),
        ("top_k", 0 <= sampling.top_k <= MAX_TOP_K, f"from 0 to {MAX_TOP_K}"),
        ("top_logprob_count", 0 <= message.top_logprob_count <= MAX_TOP_LOGPROBS, f"from 0 to {MAX_TOP_LOGPROBS}"),
        ("seed", message.seed >= 0, "0 or more"),
        ("choice_count", 1 <= sampling.choice_count <= MAX_CHOICES, f"from 1 to {MAX_CHOICES}"),
    ):
        if not is_valid:
            raise InvalidArgumentError.of_field(f"sampling.{field}", f"{getattr(message, field)} is not {wanted}")
    if len(sampling.stop) > MAX_STOPS or not all(sampling.stop):
        raise InvalidArgumentError.of_field("sampling.stop", f"at most {MAX_STOPS} texts, none of them empty")
    if sampling.choice_count > 1 and not is_unary:
        raise InvalidArgumentError.of_field("sampling.choice_count", "streams and batches make one answer to a prompt")
    if sampling.choice_count > 1 and sampling.temperature == 0:
        raise InvalidArgumentError.of_field(
            "sampling.choice_count", "several greedy answers would be equal; set a temperature above 0"
        )
    return sampling


def structure_from_proto(sampling: pb.Sampling) -> Structure | None:
    """The required form of an answer. InvalidArgumentError if it is empty, too large or not a JSON schema."""
    kind = sampling.WhichOneof("structure")
    if kind is None:
        return None
    if kind == Structure.CHOICES:
        structure = Structure(kind=kind, choices=tuple(sampling.choices.texts))
        if not 1 <= len(structure.choices) <= MAX_STRUCTURE_CHOICES or not all(structure.choices):
            raise InvalidArgumentError.of_field(
                "sampling.choices", f"give 1 to {MAX_STRUCTURE_CHOICES} texts, none of them empty"
            )
    else:
        structure = Structure(kind=kind, text=getattr(sampling, kind))
    size_bytes = sum(len(text.encode()) for text in (structure.text, *structure.choices))
    if not 0 < size_bytes <= MAX_STRUCTURE_BYTES:
        raise InvalidArgumentError.of_field(
            structure.field, f"it has {size_bytes} bytes; 1 to {MAX_STRUCTURE_BYTES} are allowed"
        )
    if kind == Structure.JSON_SCHEMA:
        _json_object(structure.text, structure.field)
    return structure


def text_from_proto(text: str, field: str) -> str:
    """InvalidArgumentError for an empty one."""
    if not text:
        raise InvalidArgumentError.of_field(field, "it is empty")
    return text


def turns_from_proto(messages: Sequence[pb.Message], *, path: str = "") -> tuple[Turn, ...]:
    """InvalidArgumentError for too many messages or none, an invalid one, or a last one that nobody can answer.

    `path`: of what has the messages, with its final dot.
    """
    if not 1 <= len(messages) <= MAX_MESSAGES:
        problem = f"the conversation has {len(messages)}; 1 to {MAX_MESSAGES} are allowed"
        raise InvalidArgumentError.of_field(f"{path}messages", problem)
    turns = tuple(_turn(message, f"{path}messages[{index}]") for index, message in enumerate(messages))
    if turns[-1].role not in ("user", "tool"):
        raise InvalidArgumentError.of_field(f"{path}messages", "the last message must be the user's or a tool's")
    return turns


def _turn(message: pb.Message, path: str) -> Turn:
    for field, is_valid, problem in (
        ("role", message.role in ROLES, f"{message.role!r:.80}: choose one of {', '.join(ROLES)}"),
        ("parts", not (message.content and message.parts), "give either content or parts"),
        ("tool_calls", message.role == "assistant" or not message.tool_calls, "only the assistant calls tools"),
        ("tool_calls", len(message.tool_calls) <= MAX_TOOLS, f"at most {MAX_TOOLS}"),
        ("tool_call_id", (message.role == "tool") == bool(message.tool_call_id), "a tool's message has it, no other"),
    ):
        if not is_valid:
            raise InvalidArgumentError.of_field(f"{path}.{field}", problem)
    return Turn(
        message.role,
        message.content or "\n".join(part.text for part in message.parts),
        name=message.name,
        tool_calls=tuple(_tool_call(call, f"{path}.tool_calls[{n}]") for n, call in enumerate(message.tool_calls)),
        tool_call_id=message.tool_call_id,
    )


def _tool_call(call: pb.ToolCall, path: str) -> ToolCall:
    for field in ("id", "name"):
        text_from_proto(getattr(call, field), f"{path}.{field}")
    _json_object(call.arguments, f"{path}.arguments")
    return ToolCall(call.id, call.name, call.arguments)


def _json_object(text: str, field: str) -> None:
    """InvalidArgumentError unless the text is a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError.of_field(field, f"it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise InvalidArgumentError.of_field(field, "it is not a JSON object")


def inputs_from_proto(inputs: Sequence[pb.BatchInput]) -> list[Prompt]:
    """InvalidArgumentError for none, too many, or an input without a prompt or conversation."""
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise InvalidArgumentError.of_field("inputs", f"there are {len(inputs)}; a batch has 1 to {MAX_INPUTS}")
    prompts: list[Prompt] = []
    for index, one in enumerate(inputs):
        if one.WhichOneof("input") == "conversation":
            prompts.append(turns_from_proto(one.conversation.messages, path=f"inputs[{index}].conversation."))
        else:
            prompts.append(text_from_proto(one.prompt, f"inputs[{index}].prompt"))
    return prompts


def scored_from_proto(request: pb.ScoreRequest) -> tuple[Prompt, str | TokenIds]:
    """Prompt and completion. InvalidArgumentError for an empty one, or none."""
    prompt: Prompt
    if request.WhichOneof("prompt") == "conversation":
        prompt = turns_from_proto(request.conversation.messages, path="conversation.")
    elif request.WhichOneof("prompt") == "prompt_token_ids":
        prompt = _token_ids(request.prompt_token_ids, "prompt_token_ids")
    else:
        prompt = text_from_proto(request.prompt_text, "prompt_text")
    if request.WhichOneof("completion") == "completion_token_ids":
        return prompt, _token_ids(request.completion_token_ids, "completion_token_ids")
    return prompt, text_from_proto(request.completion_text, "completion_text")


def _token_ids(given: pb.TokenIds, field: str) -> TokenIds:
    if not given.ids:
        raise InvalidArgumentError.of_field(field, "there are none")
    return TokenIds(tuple(given.ids))


def texts_from_proto(texts: Sequence[str]) -> tuple[str, ...]:
    """InvalidArgumentError for none, too many, or an empty one."""
    if not 1 <= len(texts) <= MAX_INPUTS or not all(texts):
        raise InvalidArgumentError.of_field("texts", f"give 1 to {MAX_INPUTS} texts, none of them empty")
    return tuple(texts)


def batch_to_proto(batch: Batch) -> pb.BatchGenerateResponse:

    def result(one: Completion | LuthierError) -> pb.BatchResult:
        if isinstance(one, LuthierError):
            return pb.BatchResult(error=status_of(one, DOMAIN))
        return pb.BatchResult(answer=to_proto(pb.BatchAnswer, one))

    return to_proto(pb.BatchGenerateResponse, batch, results=[result(one) for one in batch.results])
