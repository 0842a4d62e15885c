"""vLLM's own OpenAI application on the engine that gRPC uses, with our routing in place of its table of adapters.

vLLM looks a request's `model` up in `OpenAIServingModels`. Here that look-up gives what the HTTP layer resolved and
leased for this very request (a context variable), so equal names of two tenants never meet, and an answer's `model` is
the name that was asked for.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator, Mapping
from typing import Any

from luthierd.inference.engine.vllm_engine import VllmEngine, lora_request
from luthierd.inference.engine_host import Engine, EngineAdapter
from luthierd.inference.http_front import Application, Scope

_asked: contextvars.ContextVar[tuple[str, Any]] = contextvars.ContextVar("asked")
"""The `model` of the request that is being served, and vLLM's adapter for it; None for the base model."""


class _Routed(Mapping[str, Any]):
    """In place of vLLM's table: knows one name, the one of this request."""

    def __getitem__(self, name: str) -> Any:
        asked, adapter = _asked.get(("", None))
        if adapter is None or name != asked:
            raise KeyError(name)
        return adapter

    def __iter__(self) -> Iterator[str]:
        asked, adapter = _asked.get(("", None))
        return iter(() if adapter is None else (asked,))

    def __len__(self) -> int:
        return sum(1 for _ in self)


async def openai_application(engine: Engine) -> Application:
    """An ASGI application that serves one request of the `model`, with the adapter, that its scope was given."""
    assert isinstance(engine, VllmEngine)
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(
        ["--model", str(engine.folder), "--served-model-name", "base", "--enable-lora", "--disable-fastapi-docs",
         "--disable-log-stats"]
    )  # fmt: skip
    tasks = await engine.llm.get_supported_tasks()
    app = build_app(arguments, tasks, engine.llm.model_config)
    await init_app_state(engine.llm, app.state, arguments, tasks)
    models = app.state.openai_serving_models
    models.lora_requests = _Routed()
    models.model_name = lambda lora=None: _asked.get()[0]
    models.registry.is_base_model = lambda name: _asked.get(("", None)) == (name, None)

    async def application(scope: Scope, receive: Any, send: Any, *, model: str, adapter: EngineAdapter | None) -> None:
        _asked.set((model, lora_request(adapter)))
        await app(scope, receive, send)

    return application
