"""The InferenceService: each method parses, calls one use case, and translates the result."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypedDict

from luthier.inference.v1 import inference_service_pb2 as pb
from luthier.inference.v1 import inference_service_pb2_grpc as rpc

from luthierd import logs
from luthierd.inference.api import completion_wire as wire
from luthierd.inference.completions.completions import Completions
from luthierd.inference.completions.progress import Delta
from luthierd.inference.completions.read_ahead import read_ahead
from luthierd.inference.completions.scoring import Scoring
from luthierd.inference.domain.completion import Completion, Origin, Prompt, Target, check_session_id
from luthierd.rpc.auth import current_principal
from luthierd.rpc.contract import Context
from luthierd.rpc.wire import to_proto

EVALUATE = "inference.evaluate"


class Caller(TypedDict):
    """Who calls, and in which conversation."""

    tenant: str
    session_id: str


class InferenceServicer(rpc.InferenceServiceServicer):
    """Answers prompts."""

    def __init__(self, completions: Completions, scoring: Scoring, *, reader_limit_s: float) -> None:
        self._completions, self._scoring, self._reader_limit_s = completions, scoring, reader_limit_s

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        completion = await self._complete(request, wire.text_from_proto(request.prompt, "prompt"), context)
        return to_proto(pb.GenerateResponse, completion, choices=_choices(completion))

    async def Chat(self, request: pb.ChatRequest, context: Context) -> pb.ChatResponse:
        completion = await self._complete(request, wire.turns_from_proto(request.messages), context)
        return to_proto(pb.ChatResponse, completion, choices=_choices(completion))

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        prompt = wire.text_from_proto(request.prompt, "prompt")
        async with contextlib.aclosing(self._deltas(request, prompt, context)) as deltas:
            async for delta, given in deltas:
                yield to_proto(pb.GenerateStreamResponse, delta, **given)

    async def ChatStream(self, request: pb.ChatStreamRequest, context: Context) -> AsyncIterator[pb.ChatStreamResponse]:
        prompt = wire.turns_from_proto(request.messages)
        async with contextlib.aclosing(self._deltas(request, prompt, context)) as deltas:
            async for delta, given in deltas:
                yield to_proto(pb.ChatStreamResponse, delta, **given)

    async def BatchGenerate(self, request: pb.BatchGenerateRequest, context: Context) -> pb.BatchGenerateResponse:
        prompts = wire.inputs_from_proto(request.inputs)
        sampling = wire.sampling_from_proto(request.sampling)
        batch = await self._completions.batch(_target(request), prompts, sampling, **_caller(request))
        _send_origin(context, batch.origin, batch.response_id)
        return wire.batch_to_proto(batch)

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        prompt, completion = wire.scored_from_proto(request)
        score = await self._scoring.score(_target(request), prompt, completion, **_caller(request))
        _send_origin(context, score.origin, score.response_id)
        return to_proto(pb.ScoreResponse, score, total_logprob=math.fsum(token.logprob for token in score.tokens))

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        texts = wire.texts_from_proto(request.texts)
        embedded = await self._scoring.embed(_target(request), texts, **_caller(request))
        _send_origin(context, embedded.origin, embedded.response_id)
        return to_proto(
            pb.EmbedResponse, embedded, embeddings=[pb.Embedding(values=vector) for vector in embedded.vectors]
        )

    async def _complete(self, request: Any, prompt: Prompt, context: Context) -> Completion:
        sampling = wire.sampling_from_proto(request.sampling, is_unary=True)
        completion = await self._completions.complete(_target(request), prompt, sampling, **_caller(request))
        _send_origin(context, completion.origin, completion.response_id)
        return completion

    async def _deltas(
        self, request: Any, prompt: Prompt, context: Context
    ) -> AsyncGenerator[tuple[Delta, dict[str, Any]], None]:
        """Deltas, with what differs in their messages: only the first and the last say who answers."""
        sampling = wire.sampling_from_proto(request.sampling)
        stream = self._completions.stream(_target(request), prompt, sampling, **_caller(request))
        is_first = True
        async with contextlib.aclosing(read_ahead(stream, limit_s=self._reader_limit_s)) as deltas:
            async for delta in deltas:
                if is_first:
                    _send_origin(context, delta.origin, delta.response_id)
                without: dict[str, Any] = {} if is_first or delta.finish else {"origin": None, "response_id": ""}
                yield delta, {"delta": delta.engine.text, "logprobs": delta.engine.logprobs, **without}
                is_first = False


def _choices(completion: Completion) -> Any:
    """All choices, if there are several."""
    return completion.choices if len(completion.choices) > 1 else ()


def _target(request: Any) -> Target:
    """An adapter revision need not be deployed by an operator, so it requires an additional scope."""
    target = wire.target_from_proto(request.target)
    if target.kind == Target.ADAPTER_REVISION:
        current_principal().require_scope(EVALUATE)
    return target


def _caller(request: Any) -> Caller:
    return {"tenant": current_principal().tenant, "session_id": check_session_id(request.session_id)}


def _send_origin(context: Context, origin: Origin, response_id: str) -> None:
    """Says who answered in the trailing metadata, for proxies and clients that do not read bodies."""
    context.set_trailing_metadata(
        (
            ("x-request-id", logs.request_id.get()),
            ("luthier-loaded-adapter", origin.loaded_adapter),
            ("luthier-deployment-revision", str(origin.deployment_revision)),
            ("luthier-response-id", response_id),
        )
    )
