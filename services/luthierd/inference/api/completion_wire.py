"""Proto <-> domain of the InferenceService, both ways. Requests are checked here, once."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from luthier.inference.v1 import inference_service_pb2

from luthierd.errors import InvalidArgumentError, LuthierError
from luthierd.inference.api.deployment_wire import DOMAIN
from luthierd.inference.completions.batches import Batch
from luthierd.inference.completions.completions import Prompt
from luthierd.inference.completions.embeddings import Embedded
from luthierd.inference.completions.scores import Score
from luthierd.inference.domain.completion import (
    Answer,
    Finish,
    Origin,
    Piece,
    Sampling,
    Structure,
    Target,
    TokenIds,
    TokenLogprob,
    Turn,
)
from luthierd.names import ADAPTER_REVISION, BASE_MODEL, DEPLOYMENT
from luthierd.rpc.status import status_of

ROLES = ("system", "user", "assistant")
MAX_STOPS = 8
MAX_TOP_K = 1000
MAX_TOP_LOGPROBS = 20
"""vLLM's own default bound (`max_logprobs`), and OpenAI's."""
MAX_CHOICES = 8
MAX_STRUCTURE_BYTES = 64 * 1024
MAX_STRUCTURE_CHOICES = 256
MAX_SESSION_ID = 128
MAX_INPUTS = 64
"""Prompts of a batch, texts to embed."""

_PATTERNS = {
    Target.DEPLOYMENT: DEPLOYMENT,
    Target.BASE_MODEL: BASE_MODEL,
    Target.ADAPTER_REVISION: ADAPTER_REVISION,
}


def target_from_proto(target: inference_service_pb2.Target) -> Target:
    """InvalidArgumentError for none, or a name that does not parse."""
    kind = target.WhichOneof("target")
    if kind is None:
        raise InvalidArgumentError.of_field("target", "name a deployment, a base model or an adapter revision")
    name = getattr(target, kind)
    _PATTERNS[kind].parse(name, field=f"target.{kind}")
    return Target(kind, name)


def sampling_from_proto(sampling: inference_service_pb2.Sampling, *, is_unary: bool = False) -> Sampling:
    """InvalidArgumentError names the field that is out of its range. Several choices need `is_unary`."""
    default = Sampling()
    max_tokens = sampling.max_tokens if sampling.HasField("max_tokens") else default.max_tokens
    temperature = sampling.temperature if sampling.HasField("temperature") else default.temperature
    top_p = sampling.top_p if sampling.HasField("top_p") else default.top_p
    if max_tokens < 1:
        raise InvalidArgumentError.of_field("sampling.max_tokens", f"{max_tokens} is not 1 or more")
    if not (math.isfinite(temperature) and 0 <= temperature <= 10):
        raise InvalidArgumentError.of_field("sampling.temperature", f"{temperature} is not from 0 to 10")
    if not 0 < top_p <= 1:
        raise InvalidArgumentError.of_field("sampling.top_p", f"{top_p} is not above 0 and at most 1")
    if not 0 <= sampling.top_k <= MAX_TOP_K:
        raise InvalidArgumentError.of_field("sampling.top_k", f"{sampling.top_k} is not from 0 to {MAX_TOP_K}")
    if not 0 <= sampling.top_logprob_count <= MAX_TOP_LOGPROBS:
        raise InvalidArgumentError.of_field(
            "sampling.top_logprob_count", f"{sampling.top_logprob_count} is not from 0 to {MAX_TOP_LOGPROBS}"
        )
    if len(sampling.stop) > MAX_STOPS or not all(sampling.stop):
        raise InvalidArgumentError.of_field("sampling.stop", f"at most {MAX_STOPS} texts, none of them empty")
    if sampling.HasField("seed") and sampling.seed < 0:
        raise InvalidArgumentError.of_field("sampling.seed", f"{sampling.seed} is negative")
    return Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=sampling.seed if sampling.HasField("seed") else None,
        stop=tuple(sampling.stop),
        top_k=sampling.top_k,
        top_logprob_count=sampling.top_logprob_count if sampling.HasField("top_logprob_count") else None,
        choice_count=_choice_count(sampling, temperature, is_unary=is_unary),
        structure=structure_from_proto(sampling),
    )


def _choice_count(sampling: inference_service_pb2.Sampling, temperature: float, *, is_unary: bool) -> int:
    count = sampling.choice_count if sampling.HasField("choice_count") else 1
    if not 1 <= count <= MAX_CHOICES:
        raise InvalidArgumentError.of_field("sampling.choice_count", f"{count} is not from 1 to {MAX_CHOICES}")
    if count > 1 and not is_unary:
        raise InvalidArgumentError.of_field("sampling.choice_count", "streams and batches make one answer to a prompt")
    if count > 1 and temperature == 0:
        raise InvalidArgumentError.of_field(
            "sampling.choice_count", f"{count} greedy answers would be equal; set a temperature above 0"
        )
    return count


def structure_from_proto(sampling: inference_service_pb2.Sampling) -> Structure | None:
    """What an answer must be. InvalidArgumentError for one that is empty, too large or, of a schema, no JSON."""
    kind = sampling.WhichOneof("structure")
    if kind is None:
        return None
    if kind == Structure.CHOICES:
        texts = tuple(sampling.choices.texts)
        if not 1 <= len(texts) <= MAX_STRUCTURE_CHOICES or not all(texts):
            raise InvalidArgumentError.of_field(
                "sampling.choices", f"name 1 to {MAX_STRUCTURE_CHOICES} texts, none of them empty"
            )
        structure = Structure(kind=kind, choices=texts)
    else:
        structure = Structure(kind=kind, text=getattr(sampling, kind))
    size_bytes = sum(len(text.encode()) for text in (structure.text, *structure.choices))
    if not 0 < size_bytes <= MAX_STRUCTURE_BYTES:
        raise InvalidArgumentError.of_field(
            structure.field, f"it has {size_bytes} bytes; 1 to {MAX_STRUCTURE_BYTES} are taken"
        )
    if kind == Structure.JSON_SCHEMA:
        try:
            schema = json.loads(structure.text)
        except (ValueError, RecursionError) as error:
            raise InvalidArgumentError.of_field(structure.field, f"it is not JSON ({error})") from error
        if not isinstance(schema, dict):
            raise InvalidArgumentError.of_field(structure.field, "a schema is a JSON object")
    return structure


def session_id_of(given: str, *, field: str = "session_id") -> str:
    """InvalidArgumentError for one that is too long."""
    if len(given) > MAX_SESSION_ID:
        raise InvalidArgumentError.of_field(field, f"it has {len(given)} characters, and may have {MAX_SESSION_ID}")
    return given


def prompt_from_proto(prompt: str, *, field: str = "prompt") -> str:
    """InvalidArgumentError for an empty one."""
    if not prompt:
        raise InvalidArgumentError.of_field(field, "it is empty")
    return prompt


def turns_from_proto(messages: Sequence[inference_service_pb2.Message], *, path: str = "") -> tuple[Turn, ...]:
    """InvalidArgumentError for no messages, an unknown role, or a last message that is not the user's.

    `path`: where the request has the messages, with its final dot.
    """
    if not messages:
        raise InvalidArgumentError.of_field(f"{path}messages", "the conversation is empty")
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise InvalidArgumentError.of_field(
                f"{path}messages[{index}].role", f"{message.role!r} is not one of {', '.join(ROLES)}"
            )
    if messages[-1].role != "user":
        raise InvalidArgumentError.of_field(f"{path}messages", "the last message must be the user's")
    return tuple(Turn(message.role, message.content) for message in messages)


def inputs_from_proto(inputs: Sequence[inference_service_pb2.BatchInput]) -> tuple[Prompt, ...]:
    """InvalidArgumentError for none, too many, or an input without a prompt or conversation."""
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise InvalidArgumentError.of_field("inputs", f"there are {len(inputs)}; a batch has 1 to {MAX_INPUTS}")
    return tuple(_input_from_proto(one, f"inputs[{index}].") for index, one in enumerate(inputs))


def _input_from_proto(one: inference_service_pb2.BatchInput, path: str) -> Prompt:
    if one.WhichOneof("input") == "conversation":
        return turns_from_proto(one.conversation.messages, path=f"{path}conversation.")
    return prompt_from_proto(one.prompt, field=f"{path}prompt")


def scored_from_proto(request: inference_service_pb2.ScoreRequest) -> tuple[Prompt, str | TokenIds]:
    """Prompt and completion. InvalidArgumentError for none or an empty one."""
    prompt: Prompt
    if request.WhichOneof("prompt") == "conversation":
        prompt = turns_from_proto(request.conversation.messages, path="conversation.")
    elif request.WhichOneof("prompt") == "prompt_token_ids":
        prompt = _token_ids(request.prompt_token_ids, "prompt_token_ids")
    else:
        prompt = prompt_from_proto(request.prompt_text, field="prompt_text")
    if request.WhichOneof("completion") == "completion_token_ids":
        return prompt, _token_ids(request.completion_token_ids, "completion_token_ids")
    return prompt, prompt_from_proto(request.completion_text, field="completion_text")


def _token_ids(given: inference_service_pb2.TokenIds, field: str) -> TokenIds:
    if not given.ids:
        raise InvalidArgumentError.of_field(field, "there are none")
    return TokenIds(tuple(given.ids))


def texts_from_proto(texts: Sequence[str]) -> tuple[str, ...]:
    """InvalidArgumentError for none, too many, or an empty one."""
    if not 1 <= len(texts) <= MAX_INPUTS or not all(texts):
        raise InvalidArgumentError.of_field("texts", f"name 1 to {MAX_INPUTS} texts, none of them empty")
    return tuple(texts)


def origin_to_proto(origin: Origin) -> inference_service_pb2.Origin:
    """Who answered."""
    return inference_service_pb2.Origin(
        loaded_adapter=origin.loaded_adapter,
        deployment_revision=origin.deployment_revision,
        adapter_revision=origin.adapter_revision,
        base_model=origin.base_model,
    )


def finish_to_proto(finish: Finish) -> inference_service_pb2.Finish:
    """How an answer came about."""
    return inference_service_pb2.Finish(
        finish_reason=finish.reason,
        prompt_token_count=finish.prompt_token_count,
        completion_token_count=finish.completion_token_count,
        ttft_ms=finish.ttft_ms,
        latency_ms=finish.latency_ms,
        cached_prompt_token_count=finish.cached_prompt_token_count,
        queue_ms=finish.queue_ms,
    )


def logprobs_to_proto(logprobs: Sequence[TokenLogprob]) -> list[inference_service_pb2.TokenLogprob]:
    """Tokens with their log-probabilities."""
    return [
        inference_service_pb2.TokenLogprob(
            token_id=one.token_id,
            text=one.text,
            logprob=one.logprob,
            alternatives=[
                inference_service_pb2.TokenAlternative(token_id=other.token_id, text=other.text, logprob=other.logprob)
                for other in one.alternatives
            ],
        )
        for one in logprobs
    ]


def answer_to_fields(answer: Answer) -> dict[str, Any]:
    """The fields that a response with a whole answer has."""
    first = answer.choices[0]
    choices = [
        inference_service_pb2.Choice(
            text=one.text,
            finish_reason=one.reason,
            completion_token_count=one.completion_token_count,
            logprobs=logprobs_to_proto(one.logprobs),
        )
        for one in (answer.choices if len(answer.choices) > 1 else ())
    ]
    return {
        "text": first.text,
        "finish": finish_to_proto(answer.finish),
        "origin": origin_to_proto(answer.origin),
        "response_id": answer.response_id,
        "logprobs": logprobs_to_proto(first.logprobs),
        "choices": choices,
    }


def piece_to_fields(piece: Piece, *, is_first: bool) -> dict[str, Any]:
    """The fields of a stream's message: who answers in the first and the last, the finish in the last."""
    fields: dict[str, Any] = {"delta": piece.delta, "logprobs": logprobs_to_proto(piece.logprobs)}
    if is_first or piece.finish:
        fields |= {"origin": origin_to_proto(piece.origin), "response_id": piece.response_id}
    if piece.finish:
        fields["finish"] = finish_to_proto(piece.finish)
    return fields


def batch_to_proto(batch: Batch) -> inference_service_pb2.BatchGenerateResponse:
    """The results in their order."""
    response = inference_service_pb2.BatchGenerateResponse(
        origin=origin_to_proto(batch.origin), response_id=batch.response_id
    )
    for result in batch.results:
        if isinstance(result, LuthierError):
            response.results.add(error=status_of(result, DOMAIN))
        else:
            answer = inference_service_pb2.BatchAnswer(
                text=result.text,
                finish=finish_to_proto(result.finish),
                response_id=result.response_id,
                logprobs=logprobs_to_proto(result.choices[0].logprobs),
            )
            response.results.add(answer=answer)
    return response


def score_to_proto(score: Score) -> inference_service_pb2.ScoreResponse:
    """The scored tokens with their sum."""
    return inference_service_pb2.ScoreResponse(
        tokens=logprobs_to_proto(score.tokens),
        total_logprob=math.fsum(token.logprob for token in score.tokens),
        prompt_token_count=score.prompt_token_count,
        origin=origin_to_proto(score.origin),
        response_id=score.response_id,
    )


def embedded_to_proto(embedded: Embedded) -> inference_service_pb2.EmbedResponse:
    """The vectors in their order."""
    return inference_service_pb2.EmbedResponse(
        embeddings=[inference_service_pb2.Embedding(values=vector) for vector in embedded.vectors],
        prompt_token_count=embedded.prompt_token_count,
        origin=origin_to_proto(embedded.origin),
        response_id=embedded.response_id,
    )
