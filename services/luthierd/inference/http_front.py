"""The OpenAI-compatible endpoint's front: token, tenant, routing, lease and headers around the engine's application.

Only the routes of `ROUTES` exist. `model` is a deployment's id or full name, or a base model's full name; the answer's
`model` is the name that was asked for, and its headers name who answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol

from luthierd.errors import (
    InvalidArgumentError,
    LuthierError,
    PermissionDeniedError,
    ResourceExhaustedError,
    RetryableError,
)
from luthierd.inference import answer_wire, metrics
from luthierd.inference.answers import Answers, Leased
from luthierd.inference.deployments import Deployments
from luthierd.inference.domain import EngineState, Target
from luthierd.inference.engine_host import Engine, EngineAdapter, EngineHost
from luthierd.names import BASE_MODEL, DEPLOYMENT
from luthierd.rpc import logs
from luthierd.rpc.auth import Principal, TokenVerifier
from luthierd.rpc.paging import MAX_PAGE_SIZE, PageRequest
from luthierd.rpc.status import code_of

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

SESSION_HEADER = "x-luthier-session-id"
"""What keeps a conversation on one generation while traffic is split."""
GENERATE_SCOPE = "inference.generate"
COMPLETIONS = {"/v1/chat/completions", "/v1/completions"}
ROUTES = {"/v1/models": "GET", "/health": "GET", **dict.fromkeys(COMPLETIONS, "POST")}

REFUSED_FIELDS = {
    "cache_salt", "chat_template", "data_parallel_rank", "kv_transfer_params", "mm_processor_kwargs", "priority",
    "prompt_embeds", "request_id", "vllm_xargs",
}  # fmt: skip
"""vLLM's own fields by which a request could reach beyond itself."""

MAX_REQUEST_ID = 64
HTTP_STATUS = {
    "INVALID_ARGUMENT": (400, "invalid_request_error"),
    "UNAUTHENTICATED": (401, "authentication_error"),
    "PERMISSION_DENIED": (403, "permission_error"),
    "NOT_FOUND": (404, "not_found_error"),
    "FAILED_PRECONDITION": (409, "conflict_error"),
    "ABORTED": (409, "conflict_error"),
    "RESOURCE_EXHAUSTED": (429, "rate_limit_error"),
    "UNAVAILABLE": (503, "service_unavailable_error"),
    "DEADLINE_EXCEEDED": (504, "timeout_error"),
}


class RouteUnknownError(PermissionDeniedError):
    """Not one of `ROUTES`, or not with this method."""

    reason = "ROUTE_UNKNOWN"


class BodyTooLargeError(ResourceExhaustedError):
    """A body beyond the limit."""

    reason = "BODY_TOO_LARGE"


class Application(Protocol):
    """The engine's OpenAI application, for one request whose model is resolved."""

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, *, model: str, adapter: EngineAdapter | None
    ) -> None:
        """Answers the request."""


BuildApplication = Callable[[Engine], Awaitable[Application]]


class HttpFront:
    """The ASGI application."""

    def __init__(
        self, *, verifier: TokenVerifier, answers: Answers, deployments: Deployments, host: EngineHost,
        build: BuildApplication, max_body_bytes: int,
    ) -> None:  # fmt: skip
        self._verifier, self._answers, self._deployments, self._host = verifier, answers, deployments, host
        self._build, self._max_body_bytes = build, max_body_bytes
        self._built: tuple[Engine, Application] | None = None
        self._building = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. A LuthierError becomes OpenAI's form of an error, anything else an id in the log."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        logs.request_id.set(_request_id(headers.get("x-request-id", "")))
        state = _Response(send)
        try:
            await self._route(scope, receive, state, headers=headers)
        except LuthierError as error:
            await state.fail(*_failure(error))
        except Exception:
            error_id = uuid.uuid4().hex[:12]
            log.exception("internal error", extra={"method": scope["path"], "error_id": error_id})
            message = f"internal error {error_id}; the server's log has the details under this id"
            await state.fail(500, {"message": message, "type": "internal_error", "code": "INTERNAL"}, {})
        finally:
            log.info("http", extra={"path": scope["path"], "status": state.status, "elapsed_ms": state.elapsed_ms})

    async def _route(self, scope: Scope, receive: Receive, send: _Response, *, headers: Mapping[str, str]) -> None:
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
        await self._complete(scope, receive, send, body=body, principal=principal, session_id=session_id)

    async def _complete(
        self, scope: Scope, receive: Receive, send: _Response, *, body: dict[str, Any], principal: Principal,
        session_id: str,
    ) -> None:  # fmt: skip
        """Resolves and leases the body's model, then lets the engine's application answer."""
        model = str(body["model"])
        target = _target(model, principal)
        async with self._answers.leased(target, tenant=principal.tenant, session_id=session_id) as leased:
            application = await self._application(leased.engine)
            content = json.dumps({**body, "cache_salt": leased.cache_salt}).encode()
            send.headers = _origin_headers(leased)
            kept = [(name, value) for name, value in scope["headers"] if name.lower() in {b"accept", b"x-request-id"}]
            inner = {
                **scope,
                "headers": [
                    *kept,
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(content)).encode()),
                ],
            }
            await application(inner, _replayed(content, receive), send, model=model, adapter=leased.adapter)
            send.observe(target.kind)

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


class _Response:
    """Sends a response; remembers whether and when it began, and adds headers to the engine's."""

    def __init__(self, send: Send, clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._arrived = clock()
        self._first_s: float | None = None
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []

    @property
    def elapsed_ms(self) -> float:
        """Since the request's arrival."""
        return round((self._clock() - self._arrived) * 1000, 3)

    async def __call__(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            request_id = (b"x-request-id", logs.request_id.get().encode())
            own = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"]
            message = {**message, "headers": [*own, *self.headers, request_id]}
        elif self._first_s is None and message.get("body"):
            self._first_s = self._clock() - self._arrived
        await self._send(message)

    def observe(self, target: str) -> None:
        """Records the times of an answer that was sent."""
        if self._first_s is not None:
            metrics.observe_times(target, ttft_s=self._first_s, latency_s=self._clock() - self._arrived)

    async def json(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        fields = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
        encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
        await self({"type": "http.response.start", "status": status, "headers": encoded})
        await self({"type": "http.response.body", "body": body})

    async def fail(self, status: int, error: Mapping[str, object], headers: Mapping[str, str]) -> None:
        """An error in OpenAI's form; a response that has begun can only be cut off."""
        if self.status:
            with contextlib.suppress(OSError):
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        self.headers = []
        await self.json(status, {"error": error}, headers)


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
    for field in ("n", "best_of"):
        if isinstance(body.get(field), int) and body[field] > answer_wire.MAX_CHOICES:
            raise InvalidArgumentError.of_field(field, f"at most {answer_wire.MAX_CHOICES}")
    return body


def _target(model: str, principal: Principal) -> Target:
    """What a `model` stands for. PermissionDeniedError for another tenant's, InvalidArgumentError for no name."""
    if model.startswith("baseModels/"):
        BASE_MODEL.parse(model, field="model")
        return Target(Target.BASE_MODEL, model)
    name = model if "/" in model else DEPLOYMENT.format(principal.tenant, model)
    principal.require_tenant(name)
    DEPLOYMENT.parse(name, field="model")
    return Target(Target.DEPLOYMENT, name)


def _origin_headers(leased: Leased) -> list[tuple[bytes, bytes]]:
    origin = leased.origin
    return [
        (b"x-luthier-generation", origin.generation.encode()),
        (b"x-luthier-deployment-revision", str(origin.deployment_revision).encode()),
        (b"x-luthier-response-id", leased.response_id.encode()),
    ]


def _replayed(content: bytes, receive: Receive) -> Receive:
    """`receive` with the body that was read, changed, in front."""
    is_first = True

    async def again() -> dict[str, Any]:
        nonlocal is_first
        if is_first:
            is_first = False
            return {"type": "http.request", "body": content, "more_body": False}
        return await receive()

    return again


def _failure(error: LuthierError) -> tuple[int, dict[str, object], dict[str, str]]:
    """Status, OpenAI error object and headers."""
    if isinstance(error, RouteUnknownError):
        status, kind = 404, "not_found_error"
    else:
        status, kind = HTTP_STATUS.get(code_of(error).name, (500, "internal_error"))
    headers = {"retry-after": str(max(1, round(error.retry_after_s)))} if isinstance(error, RetryableError) else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    param = error.violations[0].field if isinstance(error, InvalidArgumentError) and error.violations else None
    return status, {"message": str(error), "type": kind, "code": error.reason, "param": param}, headers
