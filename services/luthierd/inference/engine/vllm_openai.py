"""vLLM's own OpenAI application on the engine that gRPC uses, with our routing in place of its table of adapters.

vLLM looks a request's `model` up in `OpenAIServingModels`. Here that look-up gives what the HTTP layer resolved and
leased for this very request (a context variable), so equal names of two tenants never meet, and an answer's `model` is
the name that was asked for.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from luthierd.inference.completions.completions import Leased
from luthierd.inference.engine.engine import Engine
from luthierd.inference.engine.vllm_engine import VllmEngine, lora_request
from luthierd.inference.http.exchange import Receive, Scope, Send, Usage
from luthierd.inference.http.front import Application


@dataclass
class _Asked:
    """The request that is being served. `adapter`: vLLM's form of it; None for the base model."""

    model: str
    adapter: Any
    response_id: str
    usage: Usage
    running: set[str] = field(default_factory=set)
    """Ids of what the engine computes for it."""
    started_count: int = 0


_asked: contextvars.ContextVar[_Asked | None] = contextvars.ContextVar("asked", default=None)


class _Counting:
    """`AsyncLLM` as vLLM's application gets it: counts tokens, and gives the engine ids that no caller can choose."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncGenerator[Any, None]:
        from vllm.sampling_params import RequestOutputKind

        asked = _asked.get()
        assert asked is not None
        own_id, prompt_token_count = f"{asked.response_id}.{asked.started_count}", 0
        asked.started_count += 1
        asked.running.add(own_id)
        if sampling_params.output_kind is RequestOutputKind.FINAL_ONLY and sampling_params.n == 1:
            sampling_params.output_kind = RequestOutputKind.CUMULATIVE  # so that one that is cut off is counted, too
        is_cumulative, seen = sampling_params.output_kind is RequestOutputKind.CUMULATIVE, 0
        async with contextlib.aclosing(self._llm.generate(prompt, sampling_params, own_id, **options)) as outputs:
            async for output in outputs:
                if not prompt_token_count:
                    prompt_token_count = len(output.prompt_token_ids or ())
                    asked.usage.prompt_token_count += prompt_token_count
                token_count = sum(len(one.token_ids) for one in output.outputs)
                asked.usage.completion_token_count += token_count - (seen if is_cumulative else 0)
                seen = token_count
                if output.finished:
                    asked.running.discard(own_id)
                yield output


class _Routed(Mapping[str, Any]):
    """In place of vLLM's table: knows one name, the one of this request."""

    def __getitem__(self, name: str) -> Any:
        asked = _asked.get()
        if asked is None or asked.adapter is None or name != asked.model:
            raise KeyError(name)
        return asked.adapter

    def __iter__(self) -> Iterator[str]:
        asked = _asked.get()
        return iter(() if asked is None or asked.adapter is None else (asked.model,))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _model() -> str:
    asked = _asked.get()
    assert asked is not None
    return asked.model


def _is_base_model(name: str) -> bool:
    asked = _asked.get()
    return asked is not None and asked.adapter is None and asked.model == name


def _tool_arguments(parser: str) -> list[str]:
    return [] if parser == "none" else ["--enable-auto-tool-choice", "--tool-call-parser", parser]


async def openai_application(engine: Engine) -> Application:
    """An ASGI application that serves one request of the `model`, with the adapter, that its scope was given."""
    assert isinstance(engine, VllmEngine)
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(
        [
            "--model",
            str(engine.folder),
            "--served-model-name",
            "base",
            "--enable-lora",
            "--disable-fastapi-docs",
            "--disable-log-stats",
            *_tool_arguments(engine.settings.tool_call_parser),
        ]
    )
    tasks = await engine.llm.get_supported_tasks()
    app = build_app(arguments, tasks, engine.llm.model_config)
    await init_app_state(_Counting(engine.llm), app.state, arguments, tasks)
    models = app.state.openai_serving_models
    models.lora_requests = _Routed()
    models.model_name = lambda lora=None: _model()
    models.registry.is_base_model = _is_base_model

    async def application(
        scope: Scope, receive: Receive, send: Send, *, leased: Leased, model: str, usage: Usage
    ) -> None:
        asked = _Asked(model, lora_request(leased.adapter), leased.response_id, usage)
        _asked.set(asked)
        try:
            await app(scope, receive, send)
        finally:
            # vLLM's application leaves its handler running when it is cut off from outside
            if asked.running and not engine.llm.errored:
                await engine.llm.abort(asked.running)

    return application
