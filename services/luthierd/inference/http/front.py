"""The OpenAI-compatible endpoint: token, tenant, routing, lease and headers around the engine's own application.

Only the routes of `ROUTES` exist. `model` is a deployment's id or full name, or a base model's full name; the answer's
`model` is the name in the request, and its headers say who answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import uuid
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from luthierd import logs
from luthierd.errors import InvalidArgumentError, LuthierError
from luthierd.inference import metrics
from luthierd.inference.completions.completions import Completions
from luthierd.inference.completions.leases import Leased
from luthierd.inference.deployments.deployments import Deployments
from luthierd.inference.domain.completion import Target, TokenUsage, check_session_id
from luthierd.inference.domain.engine import EngineState
from luthierd.inference.domain.errors import ReaderTooSlowError
from luthierd.inference.engine.engine import Engine, OpenAIApplication
from luthierd.inference.engine.host import EngineHost
from luthierd.inference.http.body import NotCopiedError, cost_of, parse_body, prompt_of, sampling_of
from luthierd.inference.http.door import authorised
from luthierd.inference.http.exchange import BodyTooLargeError, Reply, RouteUnknownError, bounded, failure_of
from luthierd.inference.http.outbox import Outbox
from luthierd.inference.http.recording import AnswerTap
from luthierd.inference.http.structures import check_structures
from luthierd.names import BASE_MODEL, DEPLOYMENT
from luthierd.paging import MAX_PAGE_SIZE, PageRequest
from luthierd.rpc.auth import Principal, TokenVerifier

log = logging.getLogger(__name__)

SESSION_HEADER = "x-luthier-session-id"
"""Keeps a conversation on one loaded adapter while traffic is split."""
TIMEOUT_HEADER = "x-luthier-timeout-s"
"""Maximum seconds for the answer; after them the engine stops computing it."""
GENERATE_SCOPE = "inference.generate"
COMPLETIONS = {"/v1/chat/completions", "/v1/completions"}
ROUTES = {"/v1/models": "GET", "/health": "GET", **dict.fromkeys(COMPLETIONS, "POST")}
CLIENT_GONE = 499
"""Status in the log of a request whose client disconnected (nginx's convention); it is never sent."""
MAX_REQUEST_ID = 64


class HttpFront:
    """The ASGI application. It has no framework's router: four routes, and errors after a stream has begun."""

    def __init__(
        self,
        *,
        verifier: TokenVerifier,
        completions: Completions,
        deployments: Deployments,
        host: EngineHost,
        max_body_bytes: int,
        max_answer_s: float,
        reader_limit_s: float,
    ) -> None:
        self._verifier, self._completions, self._deployments, self._host = verifier, completions, deployments, host
        self._max_body_bytes, self._max_answer_s, self._reader_limit_s = max_body_bytes, max_answer_s, reader_limit_s
        self._built: tuple[Engine, OpenAIApplication] | None = None
        self._building = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. A LuthierError becomes an OpenAI error, anything else an id in the log."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        logs.request_id.set(_request_id(request.headers.get("x-request-id", "")))
        outbox = Outbox(send, limit_s=self._reader_limit_s)
        async with outbox.sending(rest_limit_s=self._max_answer_s):
            await self._answer(request, Reply(outbox))

    async def _answer(self, request: Request, reply: Reply) -> None:
        path = request.scope["path"]
        try:
            await self._route(request, reply)
        except ClientDisconnect:
            reply.status = CLIENT_GONE
        except ReaderTooSlowError as error:  # a client that does not read gets no error, the connection is closed
            log.info("a client did not read", extra={"reason": error.reason, "limit_s": self._reader_limit_s})
        except LuthierError as error:
            await reply.fail(*failure_of(error))
        except Exception:
            error_id = uuid.uuid4().hex[:12]
            log.exception("internal error", extra={"method": path, "error_id": error_id})
            message = f"internal error {error_id}; the server's log has the details under this id"
            await reply.fail(500, {"message": message, "type": "internal_error", "code": "INTERNAL"}, {})
        finally:
            elapsed_ms = round(reply.elapsed_s * 1000, 3)
            log.info("http", extra={"path": path, "status": reply.status, "elapsed_ms": elapsed_ms})

    async def _route(self, request: Request, reply: Reply) -> None:
        path = request.scope["path"]
        if ROUTES.get(path) != request.method:
            served = ", ".join(f"{method} {route}" for route, method in ROUTES.items())
            raise RouteUnknownError(
                f"{request.method} {path} does not exist; choose one of {served}", metadata={"path": path}
            )
        if path == "/health":
            state = self._host.status.state
            await reply.send(JSONResponse({"engine": state.value}, 200 if state is EngineState.READY else 503))
            return
        principal = self._verifier.verify(request.headers.get("authorization"))
        principal.require_scope(GENERATE_SCOPE)
        authorised(request.scope, principal.tenant)
        if path == "/v1/models":
            await reply.send(JSONResponse(self._models(principal)))
        else:
            await self._complete(request, reply, principal)

    async def _complete(self, request: Request, reply: Reply, principal: Principal) -> None:
        """Resolves and leases the body's model, then lets the engine's application answer."""
        body = parse_body(await self._read(request))
        session_id = check_session_id(request.headers.get(SESSION_HEADER, ""), field=SESSION_HEADER)
        limit_s = _limit_s(request.headers.get(TIMEOUT_HEADER, ""), self._max_answer_s)
        target, usage, leases = _target(body["model"], principal), TokenUsage(), self._completions.leases
        try:
            async with (
                bounded(request.receive, reply, limit_s=limit_s) as replay,
                leases.leased(target, tenant=principal.tenant, session_id=session_id) as leased,
            ):
                await check_structures(leased, body)
                application = await self._application(leased.engine)
                content = json.dumps({**body, "cache_salt": leased.cache_salt}).encode()
                reply.headers = _origin_headers(leased)
                async with leased.forwarded(cost_of(body, leased.engine.window)) as take_slot:
                    with leases.recording(leased, prompt_of(body)) as recording:
                        tap = AnswerTap(reply, recording, keeps_text=leases.mirror_of(leased) is not None)
                        await application(
                            _inner_scope(request, leased, content),
                            replay(content),
                            tap,
                            model=body["model"],
                            adapter=leased.adapter,
                            response_id=leased.response_id,
                            usage=usage,
                            tenant=principal.tenant,
                            take_slot=take_slot,
                        )
                        tap.finish(usage, ttft_s=reply.ttft_s, latency_s=reply.elapsed_s)
                await self._copy(leased, body, tap.answer)
        finally:
            reply.observe(target.kind, usage)

    async def _copy(self, leased: Leased, body: dict[str, Any], answer: str | None) -> None:
        """Offers the deployment's mirror, if any, the same request; logs the reason if it cannot be copied."""
        if self._completions.leases.mirror_of(leased) is None:
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
            await self._completions.copy(leased, prompt, sampling, answer=answer)

    async def _application(self, engine: Engine) -> OpenAIApplication:
        """The engine's application, built for its first request."""
        async with self._building:
            if self._built is None or self._built[0] is not engine:
                self._built = (engine, await engine.openai_application())
            return self._built[1]

    def _models(self, principal: Principal) -> dict[str, Any]:
        """The tenant's deployments, and the base model."""

        def card(name: str, created: float, owner: str) -> dict[str, Any]:
            return {"id": name, "object": "model", "created": int(created), "owned_by": owner}

        page = self._deployments.list(f"tenants/{principal.tenant}", PageRequest.parse(MAX_PAGE_SIZE, ""))
        live = [one for one in page.items if one.live]
        cards = [card(one.name.rpartition("/")[2], one.create_time, principal.tenant) for one in live]
        base_model = self._host.status.base_model
        if base_model is not None:
            cards.append(card(base_model.name, 0, "luthier"))
        return {"object": "list", "data": cards}

    async def _read(self, request: Request) -> bytes:
        """The body. ClientDisconnect, BodyTooLargeError."""
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > self._max_body_bytes:
                limit = str(self._max_body_bytes)
                raise BodyTooLargeError(f"the body is larger than {limit} bytes", metadata={"limit": limit})
        return bytes(content)


def _request_id(given: str) -> str:
    """The client's, if it is safe to log, else a new one."""
    return given if 0 < len(given) <= MAX_REQUEST_ID and given.isascii() and given.isprintable() else uuid.uuid4().hex


def _limit_s(given: str, max_answer_s: float) -> float:
    """Maximum seconds for the answer. InvalidArgumentError."""
    if not given:
        return max_answer_s
    try:
        limit_s = float(given)
    except ValueError:
        limit_s = 0.0
    if not 0 < limit_s < math.inf:
        raise InvalidArgumentError.of_field(TIMEOUT_HEADER, "give the maximum seconds for the answer, above 0")
    return min(limit_s, max_answer_s)


def _target(model: str, principal: Principal) -> Target:
    """What a `model` names. PermissionDeniedError for another tenant's, InvalidArgumentError for an invalid name."""
    if model.startswith("baseModels/"):
        BASE_MODEL.parse(model, field="model")
        return Target(Target.BASE_MODEL, model)
    name = model if "/" in model else DEPLOYMENT.format(principal.tenant, model)
    principal.require_tenant(name)
    DEPLOYMENT.parse(name, field="model")
    return Target(Target.DEPLOYMENT, name)


def _inner_scope(request: Request, leased: Leased, content: bytes) -> Scope:
    """The request as the engine's application sees it. It makes the answer's `id` from the request id."""
    accepts = [pair for pair in request.headers.raw if pair[0] == b"accept"]
    headers = {
        "content-type": "application/json",
        "content-length": str(len(content)),
        "x-request-id": leased.response_id,
    }
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {**request.scope, "headers": accepts + encoded}


def _origin_headers(leased: Leased) -> dict[str, str]:
    return {
        "x-luthier-loaded-adapter": leased.origin.loaded_adapter,
        "x-luthier-deployment-revision": str(leased.origin.deployment_revision),
        "x-luthier-response-id": leased.response_id,
    }
