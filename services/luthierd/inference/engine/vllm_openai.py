"""vLLM's own OpenAI application on the engine that gRPC uses, with our routing in place of its table of adapters.

vLLM looks up a request's `model` in `OpenAIServingModels`. Here that look-up returns what was resolved and leased for
this very request (a context variable), so equal names of two tenants never collide, and an answer's `model` is the
name in the request.
"""

from __future__ import annotations

import contextlib
import contextvars
import pathlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from luthierd.inference.domain.completion import TokenUsage
from luthierd.inference.engine.engine import EngineAdapter, OpenAIApplication, TakeSlot
from luthierd.inference.engine.slices import TENANT
from luthierd.inference.engine.vllm_requests import held, lora_request


@dataclass(kw_only=True)
class _Call:
    """The request that is being served. `adapter`: vLLM's type of it; None for the base model."""

    model: str
    adapter: Any
    response_id: str
    usage: TokenUsage
    tenant: str
    take_slot: TakeSlot
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
            sampling_params.output_kind = RequestOutputKind.CUMULATIVE  # so that an interrupted one is counted, too
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
                if not prompt_token_count:
                    prompt_token_count = len(output.prompt_token_ids or ())
                    call.usage.prompt_token_count += prompt_token_count
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


async def openai_application(llm: Any, folder: pathlib.Path, *, tool_call_parser: str) -> OpenAIApplication:
    """`llm`: the engine's `AsyncLLM`; `tool_call_parser` none: requests with tools are refused."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    flags = ["--enable-lora", "--disable-fastapi-docs", "--disable-log-stats"]
    if tool_call_parser != "none":
        # `parameter`: arguments are held to the tool's schema with and without `strict`
        flags += ["--enable-auto-tool-choice", "--tool-call-parser", tool_call_parser]
        flags += ["--tool-strict-level", "parameter"]
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(
        ["--model", str(folder), "--served-model-name", "base", *flags]
    )
    tasks = await llm.get_supported_tasks()
    app = build_app(arguments, tasks, llm.model_config)
    await init_app_state(_Counting(llm), app.state, arguments, tasks)
    models = app.state.openai_serving_models
    models.lora_requests = _Routed()
    models.model_name = lambda lora=None: _call.get().model
    models.registry.is_base_model = _is_base_model

    async def application(
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        model: str,
        adapter: EngineAdapter | None,
        response_id: str,
        usage: TokenUsage,
        tenant: str,
        take_slot: TakeSlot,
    ) -> None:
        call = _Call(
            model=model,
            adapter=lora_request(adapter),
            response_id=response_id,
            usage=usage,
            tenant=tenant,
            take_slot=take_slot,
        )
        _call.set(call)
        try:
            await app(scope, receive, send)
        finally:
            # vLLM's application leaves its handler running when it is cancelled from outside
            if call.running and not llm.errored:
                await llm.abort(call.running)

    return application
