"""The OpenAI-compatible endpoint's front: token, tenant, routing, lease and headers around the engine's application.

Only the routes of `ROUTES` exist. `model` is a deployment's id or full name, or a base model's full name; the answer's
`model` is the name that was asked for, and its headers name who answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from luthierd import logs
from luthierd.errors import InvalidArgumentError, LuthierError
from luthierd.inference import metrics
from luthierd.inference.api import completion_wire as answer_wire
from luthierd.inference.completions.completions import Answers, Leased
from luthierd.inference.deployments.deployments import Deployments
from luthierd.inference.domain.completion import Target
from luthierd.inference.domain.engine import EngineState
from luthierd.inference.domain.errors import ReaderTooSlowError
from luthierd.inference.engine.engine import Engine
from luthierd.inference.engine.host import EngineHost
from luthierd.inference.http.copies import NotCopiedError, sampling_of
from luthierd.inference.http.exchange import (
    CLIENT_GONE,
    BodyTooLargeError,
    ClientGoneError,
    Receive,
    Response,
    RouteUnknownError,
    Scope,
    Send,
    Usage,
    bounded,
    failure_of,
)
from luthierd.inference.http.outbox import Outbox
from luthierd.inference.http.recording import AnswerTap, prompt_of
from luthierd.inference.http.slot import http_seat
from luthierd.names import BASE_MODEL, DEPLOYMENT
from luthierd.paging import MAX_PAGE_SIZE, PageRequest
from luthierd.rpc.auth import Principal, TokenVerifier

log = logging.getLogger(__name__)

SESSION_HEADER = "x-luthier-session-id"
"""What keeps a conversation on one loaded adapter while traffic is split."""
TIMEOUT_HEADER = "x-luthier-timeout-s"
"""Seconds that the answer may take; what is over is stopped, in the engine, too."""
GENERATE_SCOPE = "inference.generate"
COMPLETIONS = {"/v1/chat/completions", "/v1/completions"}
ROUTES = {"/v1/models": "GET", "/health": "GET", **dict.fromkeys(COMPLETIONS, "POST")}

REFUSED_FIELDS = {
    "cache_salt",
    "chat_template",
    "data_parallel_rank",
    "kv_transfer_params",
    "mm_processor_kwargs",
    "priority",
    "prompt_embeds",
    "request_id",
    "vllm_xargs",
}
"""vLLM's own fields by which a request could reach beyond itself."""

MAX_REQUEST_ID = 64


class Application(Protocol):
    """The engine's OpenAI application, for one request whose model is resolved."""

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, *, leased: Leased, model: str, usage: Usage
    ) -> None:
        """Answers the request with the lease's weights, and counts the tokens. Its end, however it comes, stops all
        computation for it.
        """


BuildApplication = Callable[[Engine], Awaitable[Application]]


class HttpFront:
    """The ASGI application."""

    def __init__(
        self,
        *,
        verifier: TokenVerifier,
        answers: Answers,
        deployments: Deployments,
        host: EngineHost,
        build: BuildApplication,
        max_body_bytes: int,
        max_answer_s: float,
        reader_limit_s: float,
    ) -> None:
        self._verifier, self._answers, self._deployments, self._host = verifier, answers, deployments, host
        self._build, self._max_body_bytes, self._max_answer_s = build, max_body_bytes, max_answer_s
        self._reader_limit_s = reader_limit_s
        self._built: tuple[Engine, Application] | None = None
        self._building = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. A LuthierError becomes OpenAI's form of an error, anything else an id in the log."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        logs.request_id.set(_request_id(headers.get("x-request-id", "")))
        outbox = Outbox(send, limit_s=self._reader_limit_s)
        async with outbox.sending(rest_limit_s=self._max_answer_s):
            await self._answer(scope, receive, Response(outbox), headers=headers)

    async def _answer(self, scope: Scope, receive: Receive, state: Response, *, headers: Mapping[str, str]) -> None:
        try:
            await self._route(scope, receive, state, headers=headers)
        except ClientGoneError:
            state.status = CLIENT_GONE
        except ReaderTooSlowError as error:  # who does not read is not told, the server closes the connection
            log.info("a client did not read", extra={"reason": error.reason, "limit_s": self._reader_limit_s})
        except LuthierError as error:
            await state.fail(*failure_of(error))
        except Exception:
            error_id = uuid.uuid4().hex[:12]
            log.exception("internal error", extra={"method": scope["path"], "error_id": error_id})
            message = f"internal error {error_id}; the server's log has the details under this id"
            await state.fail(500, {"message": message, "type": "internal_error", "code": "INTERNAL"}, {})
        finally:
            log.info("http", extra={"path": scope["path"], "status": state.status, "elapsed_ms": state.elapsed_ms})

    async def _route(self, scope: Scope, receive: Receive, send: Response, *, headers: Mapping[str, str]) -> None:
        path = scope["path"]
        if ROUTES.get(path) != scope["method"]:
            raise RouteUnknownError(
                f"{scope['method']} {path} is not served here; served are "
                + ", ".join(f"{method} {route}" for route, method in ROUTES.items()),
                metadata={"path": path},
            )
        if path == "/health":
            ready = self._host.status.state is EngineState.READY
            await send.json(200 if ready else 503, {"engine": self._host.status.state.value})
            return
        principal = self._verifier.verify(headers.get("authorization"))
        principal.require_scope(GENERATE_SCOPE)
        if path == "/v1/models":
            await send.json(200, self._models(principal))
            return
        body = await self._body(receive)
        session_id = answer_wire.session_id_of(headers.get(SESSION_HEADER, ""), field=SESSION_HEADER)
        limit_s = _limit_s(headers.get(TIMEOUT_HEADER, ""), self._max_answer_s)
        await self._complete(
            scope, receive, send, body=body, principal=principal, session_id=session_id, limit_s=limit_s
        )

    async def _complete(
        self,
        scope: Scope,
        receive: Receive,
        send: Response,
        *,
        body: dict[str, Any],
        principal: Principal,
        session_id: str,
        limit_s: float,
    ) -> None:
        """Resolves and leases the body's model, then lets the engine's application answer."""
        model = str(body["model"])
        target = _target(model, principal)
        usage = Usage()
        try:
            async with (
                bounded(receive, send, limit_s=limit_s) as replay,
                self._answers.leased(target, tenant=principal.tenant, session_id=session_id) as leased,
            ):
                application = await self._application(leased.engine)
                content = json.dumps({**body, "cache_salt": leased.cache_salt}).encode()
                send.headers = _origin_headers(leased)
                inner = {**scope, "headers": _inner_headers(scope, leased, content)}
                async with http_seat(leased, body, usage):
                    with self._answers.recording(leased, prompt_of(body)) as recording:
                        tap = AnswerTap(send, recording, keeps_text=self._answers.is_mirrored(leased))
                        await application(inner, replay(content), tap, leased=leased, model=model, usage=usage)
                        tap.finish(usage, ttft_s=send.ttft_s, latency_s=send.elapsed_ms / 1000)
                await self._copy(leased, body, tap.answer)
        finally:
            send.observe(target.kind, usage)

    async def _copy(self, leased: Leased, body: dict[str, Any], answer: str | None) -> None:
        """Has the deployment's mirror, if there is one, answer the same; the log says why where it cannot be asked."""
        if not self._answers.is_mirrored(leased):
            return
        try:
            if answer is None:
                raise NotCopiedError("answer")
            prompt = prompt_of(body)
            if prompt is None:
                raise NotCopiedError("prompt")
            sampling = sampling_of(body, window=leased.engine.window)
        except NotCopiedError as error:
            metrics.mirror_skipped.labels(error.reason).inc()
            log.info("not mirrored", extra={"reason": error.reason, "target": leased.target.name})
        else:
            await self._answers.copy(leased, prompt, sampling, answer=answer)

    async def _application(self, engine: Engine) -> Application:
        """The application on this engine, built at its first request."""
        async with self._building:
            if self._built is None or self._built[0] is not engine:
                self._built = (engine, await self._build(engine))
            return self._built[1]

    def _models(self, principal: Principal) -> dict[str, Any]:
        """The tenant's deployments, and the base model."""
        page = self._deployments.list(f"tenants/{principal.tenant}", PageRequest.parse(MAX_PAGE_SIZE, ""))
        cards = [
            {
                "id": one.name.rpartition("/")[2],
                "object": "model",
                "created": int(one.create_time),
                "owned_by": principal.tenant,
            }
            for one in page.items
            if one.live
        ]
        base_model = self._host.status.base_model
        if base_model is not None:
            cards.append({"id": base_model.name, "object": "model", "created": 0, "owned_by": "luthier"})
        return {"object": "list", "data": cards}

    async def _body(self, receive: Receive) -> dict[str, Any]:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise asyncio.CancelledError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_body_bytes:
                raise BodyTooLargeError(
                    f"the body is larger than {self._max_body_bytes} bytes",
                    metadata={"limit": str(self._max_body_bytes)},
                )
            if not message.get("more_body"):
                break
        return _checked(b"".join(parts))


def _request_id(given: str) -> str:
    """The caller's, if it is fit for a log, else a new one."""
    return given if 0 < len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable() else uuid.uuid4().hex


def _checked(content: bytes) -> dict[str, Any]:
    """The body as an object that names a model and reaches no further than itself."""
    try:
        body = json.loads(content)
    except ValueError as error:
        raise InvalidArgumentError.of_field("body", f"it is not JSON ({error})") from error
    if not isinstance(body, dict) or not isinstance(body.get("model"), str) or not body["model"]:
        raise InvalidArgumentError.of_field("model", "name a deployment or a base model; GET /v1/models lists them")
    if refused := sorted(REFUSED_FIELDS & body.keys()):
        raise InvalidArgumentError.of_field(refused[0], "this field is not served here; leave it out")
    prompts = body.get("prompt")
    if isinstance(prompts, list) and len(prompts) > answer_wire.MAX_INPUTS and not isinstance(prompts[0], int):
        raise InvalidArgumentError.of_field("prompt", f"at most {answer_wire.MAX_INPUTS} prompts")
    for field in ("n", "best_of"):
        if isinstance(body.get(field), int) and body[field] > answer_wire.MAX_CHOICES:
            raise InvalidArgumentError.of_field(field, f"at most {answer_wire.MAX_CHOICES}")
    return body


def _limit_s(given: str, most_s: float) -> float:
    """Seconds that an answer may take. InvalidArgumentError for what is none."""
    if not given:
        return most_s
    try:
        limit_s = float(given)
    except ValueError:
        limit_s = 0.0
    if not 0 < limit_s < math.inf:
        raise InvalidArgumentError.of_field(TIMEOUT_HEADER, "name the seconds that the answer may take, above 0")
    return min(limit_s, most_s)


def _target(model: str, principal: Principal) -> Target:
    """What a `model` stands for. PermissionDeniedError for another tenant's, InvalidArgumentError for no name."""
    if model.startswith("baseModels/"):
        BASE_MODEL.parse(model, field="model")
        return Target(Target.BASE_MODEL, model)
    name = model if "/" in model else DEPLOYMENT.format(principal.tenant, model)
    principal.require_tenant(name)
    DEPLOYMENT.parse(name, field="model")
    return Target(Target.DEPLOYMENT, name)


def _inner_headers(scope: Scope, leased: Leased, content: bytes) -> list[tuple[bytes, bytes]]:
    """What the engine's application sees of the headers. It makes an answer's `id` of the request id."""
    return [
        *((name, value) for name, value in scope["headers"] if name.lower() == b"accept"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"x-request-id", leased.response_id.encode()),
    ]


def _origin_headers(leased: Leased) -> list[tuple[bytes, bytes]]:
    origin = leased.origin
    return [
        (b"x-luthier-loaded-adapter", origin.loaded_adapter.encode()),
        (b"x-luthier-deployment-revision", str(origin.deployment_revision).encode()),
        (b"x-luthier-response-id", leased.response_id.encode()),
    ]
