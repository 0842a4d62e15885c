"""vLLM's own OpenAI serving on the engine that gRPC uses, with our routing in place of its table of adapters.

Its objects for chat, completions, responses and tokens are called directly. Its FastAPI application is not used: that
sets the root logger's level, brings other routes, CORS for all origins and plugins, and ends the server with the
engine.

vLLM looks up a request's `model` in `OpenAIServingModels`. Here that look-up returns what was resolved and leased for
this very request (a context variable), so equal names of two tenants never collide, and an answer's `model` is the
name in the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import pathlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from starlette.datastructures import State
from starlette.responses import JSONResponse
from starlette.types import Send

from luthierd.inference.domain.completion import TokenUsage
from luthierd.inference.engine.engine import OpenAIApplication, OpenAICall, TakeSlot
from luthierd.inference.engine.slices import TENANT
from luthierd.inference.engine.vllm_errors import Translation
from luthierd.inference.engine.vllm_requests import held, lora_request


@dataclass(kw_only=True)
class _Call:
    """The request that is being served. `adapter`: vLLM's type of it; None for the base model."""

    route: str
    model: str
    adapter: Any
    response_id: str
    usage: TokenUsage
    tenant: str
    take_slot: TakeSlot
    errors: Translation
    running: set[str] = field(default_factory=set)
    """Ids of what the engine computes for it."""
    started_count: int = 0


_call: contextvars.ContextVar[_Call] = contextvars.ContextVar("call")


class _Counting:
    """`AsyncLLM` for vLLM's application: each request waits for its slots, its tokens are counted, and its id is one
    that no client can choose.
    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        from vllm.sampling_params import RequestOutputKind

        call = _call.get()
        own_id, prompt_token_count = f"{call.response_id}.{call.started_count}", 0
        call.started_count += 1
        call.running.add(own_id)
        sampling_params.structured_outputs = held(sampling_params.structured_outputs)
        if sampling_params.output_kind is RequestOutputKind.FINAL_ONLY and sampling_params.n == 1:
            # So that an interrupted one is counted, too. Responses are added up from their parts.
            is_response = call.route == "/v1/responses"
            sampling_params.output_kind = RequestOutputKind.DELTA if is_response else RequestOutputKind.CUMULATIVE
        is_cumulative, seen = sampling_params.output_kind is RequestOutputKind.CUMULATIVE, 0
        sampling_params.extra_args = {**(sampling_params.extra_args or {}), TENANT: call.tenant}
        async with contextlib.AsyncExitStack() as stack:
            slot = await stack.enter_async_context(
                call.take_slot(
                    prompt_token_count=len(prompt["prompt_token_ids"]),
                    max_answer_token_count=sampling_params.n * sampling_params.max_tokens,
                    slot_count=sampling_params.n,
                )
            )
            outputs = await stack.enter_async_context(
                contextlib.aclosing(self._llm.generate(prompt, sampling_params, own_id, **options))
            )
            async for output in outputs:
                call.errors.is_started = True
                if not prompt_token_count:
                    prompt_token_count = len(output.prompt_token_ids or ())
                    call.usage.prompt_token_count += prompt_token_count
                    call.usage.cached_prompt_token_count += output.num_cached_tokens or 0
                token_count = sum(len(one.token_ids) for one in output.outputs)
                call.usage.completion_token_count += token_count - (seen if is_cumulative else 0)
                slot.answer_token_count += token_count - (seen if is_cumulative else 0)
                seen = token_count
                if output.finished:
                    call.running.discard(own_id)
                yield output


class _Routed(Mapping[str, Any]):
    """In place of vLLM's table: it has one name, that of this request, if an adapter answers."""

    def __getitem__(self, name: str) -> Any:
        if name not in list(self):
            raise KeyError(name)
        return _call.get().adapter

    def __iter__(self) -> Iterator[str]:
        call = _call.get(None)
        return iter((call.model,) if call and call.adapter else ())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _is_base_model(name: str) -> bool:
    call = _call.get(None)
    return call is not None and call.adapter is None and call.model == name


@dataclass(frozen=True)
class _Route:
    """How vLLM reads and answers the requests of a path."""

    read: Callable[[dict[str, Any]], Any]
    answer: Callable[[Any, None], Awaitable[Any]]


async def openai_application(llm: Any, folder: pathlib.Path, *, tool_call_parser: str) -> OpenAIApplication:
    """`llm`: the engine's `AsyncLLM`; `tool_call_parser` none: requests with tools are refused."""
    from vllm.entrypoints.serve.engine.protocol import ErrorResponse

    routes, window = await _routes(llm, folder, tool_call_parser), int(llm.model_config.max_model_len)

    async def application(call: OpenAICall, send: Send) -> None:
        adapter, errors = lora_request(call.adapter), Translation(call, llm, window)
        mine = _Call(
            route=call.route,
            model=call.model,
            adapter=adapter,
            response_id=call.response_id,
            usage=call.usage,
            tenant=call.tenant,
            take_slot=call.take_slot,
            errors=errors,
        )
        _call.set(mine)
        route = routes[call.route]
        try:
            request = route.read(
                {**call.body, "model": call.model, "cache_salt": call.cache_salt, "request_id": _public_id(call)}
            )
            answer = await route.answer(request, None)
            if (task := asyncio.current_task()) and task.cancelling():
                raise asyncio.CancelledError  # vLLM turns it into an error of the client
            if isinstance(answer, ErrorResponse):
                raise errors.of_response(answer.error.code, answer.error.message, answer.error.param)
            await (_send_stream(answer, send) if hasattr(answer, "__aiter__") else _send_whole(answer, send))
        except Exception as error:
            if (translated := errors.of_exception(error)) is not error:
                raise translated from error
            raise
        finally:
            if mine.running and not llm.errored:
                await llm.abort(mine.running)

    return application


async def _routes(llm: Any, folder: pathlib.Path, tool_call_parser: str) -> dict[str, _Route]:
    """VLLM's objects, without the application around them."""
    from pydantic import TypeAdapter
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeRequest
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    flags = ["--enable-lora", "--disable-log-stats", "--enable-prompt-tokens-details"]
    if tool_call_parser != "none":
        # `parameter`: arguments are held to the tool's schema with and without `strict`
        flags += ["--enable-auto-tool-choice", "--tool-call-parser", tool_call_parser]
        flags += ["--tool-strict-level", "parameter"]
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(
        ["--model", str(folder), "--served-model-name", "base", *flags]
    )
    state = State()
    await init_app_state(_Counting(llm), state, arguments, await llm.get_supported_tasks())
    models = state.openai_serving_models
    models.lora_requests = _Routed()
    models.model_name = lambda lora=None: _call.get().model
    models.registry.is_base_model = _is_base_model
    chat, completion = state.openai_serving_chat, state.openai_serving_completion
    responses, tokens = state.openai_serving_responses, state.serving_tokenization
    for serving in (chat, completion, responses):
        serving.create_streaming_error_response = _raise
    return {
        "/v1/chat/completions": _Route(ChatCompletionRequest.model_validate, chat.create_chat_completion),
        "/v1/completions": _Route(CompletionRequest.model_validate, completion.create_completion),
        "/v1/responses": _Route(ResponsesRequest.model_validate, responses.create_responses),
        "/tokenize": _Route(TypeAdapter(TokenizeRequest).validate_python, tokens.create_tokenize),
        "/detokenize": _Route(DetokenizeRequest.model_validate, tokens.create_detokenize),
    }


def _raise(message: str | Exception, err_type: str = "", status_code: int = 400, param: str | None = None) -> NoReturn:
    """In place of vLLM's event for an error in a stream, after which it would go on with `[DONE]`."""
    errors = _call.get().errors
    if isinstance(message, Exception):
        raise errors.of_exception(message) from message
    raise errors.of_response(int(status_code), message, param)


def _public_id(call: OpenAICall) -> str:
    """What vLLM makes the answer's `id` of; the prefix of chats and completions is its own."""
    return f"resp_{call.response_id}" if call.route == "/v1/responses" else call.response_id


async def _send_whole(answer: Any, send: Send) -> None:
    response = JSONResponse(answer.model_dump(mode="json", by_alias=True))
    await send({"type": "http.response.start", "status": 200, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body})


async def _send_stream(events: AsyncIterator[Any], send: Send) -> None:
    """The response begins with the first event, so that what is refused before it has its own status."""
    is_begun = False
    async with contextlib.aclosing(events) as opened:  # type: ignore[type-var]
        async for event in opened:
            if not is_begun:
                headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                is_begun = True
            text = (
                event
                if isinstance(event, str)
                else f"event: {event.type}\ndata: {event.model_dump_json(by_alias=True)}\n\n"
            )
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})
