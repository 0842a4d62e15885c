"""The OpenAI-compatible endpoint: routes, tokens, limits and errors around what answers.

`model` is the name of a deployment, a base model or an adapter revision (`models.target_of`); the answer's `model` is
the name in the request, and its headers say who answered.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from luthierd import logs
from luthierd.errors import InternalError, InvalidArgumentError, LuthierError
from luthierd.inference.domain.completion import check_session_id
from luthierd.inference.domain.engine import EngineState
from luthierd.inference.domain.errors import ReaderTooSlowError
from luthierd.inference.engine.host import EngineHost
from luthierd.inference.http import fields
from luthierd.inference.http.door import authorised
from luthierd.inference.http.embeddings import Embedding
from luthierd.inference.http.exchange import (
    Asked,
    MethodUnknownError,
    Reply,
    RouteUnknownError,
    bounded,
    read_body,
)
from luthierd.inference.http.generating import Generating
from luthierd.inference.http.json_body import read_object
from luthierd.inference.http.models import Catalogue, target_of
from luthierd.inference.http.outbox import Outbox
from luthierd.rpc.auth import Principal, TokenVerifier
from luthierd.text import nearest

log = logging.getLogger(__name__)

SESSION_HEADER = "x-luthier-session-id"
"""Keeps a conversation on one loaded adapter while traffic is split."""
TIMEOUT_HEADER = "x-luthier-timeout-s"
"""Maximum seconds for the answer; after them the engine stops computing it."""
GENERATE_SCOPE = "inference.generate"
CLIENT_GONE = 499
"""Status in the log of a request whose client disconnected (nginx's convention); it is never sent."""
MAX_REQUEST_ID = 64
MAX_LOGGED_PATH = 200
LARGE_BYTES = 64 * 1024
"""Larger bodies are read in a thread, so that other requests go on."""
EXPOSED_HEADERS = [
    "retry-after",
    "x-luthier-deployment-revision",
    "x-luthier-loaded-adapter",
    "x-luthier-response-id",
    "x-request-id",
]
"""What a web page of another origin may read of an answer."""
CARD = "/v1/models/"


class _Post(NamedTuple):
    """A route in the form that the engine knows, the fields of its requests, and what answers them."""

    route: str
    kind: type[fields.Body]
    answer: Callable[[Asked, Reply], Awaitable[None]]


class HttpFront:
    """The ASGI application. It has no framework's router: a few routes, and errors after a stream has begun."""

    def __init__(
        self,
        *,
        verifier: TokenVerifier,
        catalogue: Catalogue,
        generating: Generating,
        embedding: Embedding,
        host: EngineHost,
        max_body_bytes: int,
        max_answer_s: float,
        reader_limit_s: float,
    ) -> None:
        self._verifier, self._catalogue, self._host = verifier, catalogue, host
        self._max_body_bytes, self._max_answer_s, self._reader_limit_s = max_body_bytes, max_answer_s, reader_limit_s
        tokens = (
            _Post("/tokenize", fields.Tokenize, generating.tokenize),
            _Post("/detokenize", fields.Detokenize, generating.tokenize),
        )
        posts = (
            _Post("/v1/chat/completions", fields.Chat, generating.answer),
            _Post("/v1/completions", fields.Completions, generating.answer),
            _Post("/v1/responses", fields.Responses, generating.answer),
            _Post("/v1/embeddings", fields.Embeddings, embedding.answer),
            *tokens,
        )
        self._posts = {one.route: one for one in posts} | {f"/v1{one.route}": one for one in tokens}

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
        path = "/" + "/".join(filter(None, request.scope["path"].split("/")))
        reply.has_typed_events = path == "/v1/responses"
        try:
            await self._route(path, request, reply)
        except ClientDisconnect:
            reply.status = CLIENT_GONE
        except ReaderTooSlowError as error:  # a client that does not read gets no error, the connection is closed
            log.info("a client did not read", extra={"reason": error.reason, "limit_s": self._reader_limit_s})
        except LuthierError as error:
            reply.seen["reason"] = error.reason
            await reply.fail(error)
        except Exception:
            error_id = uuid.uuid4().hex[:12]
            log.exception("internal error", extra={"method": path[:MAX_LOGGED_PATH], "error_id": error_id})
            message = f"internal error {error_id}; the server's log has the details under this id"
            await reply.fail(InternalError(message, metadata={"error_id": error_id}))
        finally:
            times = {"elapsed_ms": round(reply.elapsed_s * 1e3, 3), "ttft_ms": round(reply.ttft_s * 1e3, 3)}
            sent = {"status": reply.status, "bytes": reply.byte_count, **times}
            log.info("http", extra={"method": request.method, "path": path[:MAX_LOGGED_PATH], **sent, **reply.seen})

    async def _route(self, path: str, request: Request, reply: Reply) -> None:
        """HEAD is answered like GET; the server sends no body for it."""
        post, is_card = self._posts.get(path), path.startswith(CARD)
        if post is None and not is_card and path not in ("/health", "/v1/models"):
            near = nearest(path, ["/health", "/v1/models", *self._posts])
            hint = f"; did you mean {near}?" if near else ""
            path = path[:MAX_LOGGED_PATH]
            raise RouteUnknownError(f"{path} does not exist{hint}", metadata={"path": path})
        allowed = "POST, OPTIONS" if post else "GET, HEAD, OPTIONS"
        if request.method == "OPTIONS":
            await reply.send(204, None, {"allow": allowed})
        elif request.method not in allowed.split(", "):
            raise MethodUnknownError(request.method, path, allowed)
        elif path == "/health":
            state = self._host.status.state
            await reply.send(200 if state is EngineState.READY else 503, {"engine": state.value})
        else:
            principal = self._verifier.verify(request.headers.get("authorization"))
            principal.require_scope(GENERATE_SCOPE)
            authorised(request.scope, principal.tenant)
            reply.seen["tenant"] = principal.tenant
            if post is not None:
                await self._post(post, request, reply, principal)
            elif is_card:
                await reply.send(200, await self._catalogue.card(path.removeprefix(CARD), principal))
            else:
                await reply.send(200, self._catalogue.cards(principal))

    async def _post(self, post: _Post, request: Request, reply: Reply, principal: Principal) -> None:
        """Checks the request, then has it answered within its time."""
        content = await read_body(request, self._max_body_bytes)
        is_large = len(content) > LARGE_BYTES
        body = fields.checked(
            await asyncio.to_thread(read_object, content) if is_large else read_object(content), post.kind
        )
        asked = Asked(
            route=post.route,
            body=body,
            target=target_of(body["model"], principal),
            tenant=principal.tenant,
            session_id=check_session_id(request.headers.get(SESSION_HEADER, ""), field=SESSION_HEADER),
        )
        limit_s = _limit_s(request.headers.get(TIMEOUT_HEADER, ""), self._max_answer_s)
        reply.seen["target"] = asked.target.name
        async with bounded(request.receive, reply, limit_s=limit_s):
            await post.answer(asked, reply)


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
