"""Who may hold a connection to the HTTP endpoint, and for how long.

uvicorn bounds connections by refusing requests while there are too many: a client that opens that many in silence locks
everybody out. Here a connection is a stranger until a request on it carries a valid token. Strangers have their own
places, of which a newcomer always gets one (`rpc/places.py`); tenants share the others in the same way, and only idle
connections are closed. Silence and dripping bytes are bounded in time: the limits run from the beginning of what is
waited for, and no byte extends them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from luthierd.config import ConfigError
from luthierd.errors import ResourceExhaustedError
from luthierd.inference import metrics
from luthierd.inference.config import InferenceConfig
from luthierd.rpc.places import Place, Places

AUTHORISED = "luthier.authorised"
REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class ConnectionsExhaustedError(ResourceExhaustedError):
    """Every connection that tenants may have is in use."""

    reason = "CONNECTIONS_EXHAUSTED"


def authorised(scope: Scope, tenant: str) -> None:
    """Must be called when a request's token was found valid: its connection is the tenant's from now on.

    ConnectionsExhaustedError.
    """
    tell: Callable[[str], None] | None = scope.get("state", {}).get(AUTHORISED)
    if tell is not None:  # absent where the application runs without our server
        tell(tenant)


class Door:
    """The places of all connections."""

    def __init__(self, config: InferenceConfig) -> None:
        member_count = config.max_http_connections - config.max_http_unauthenticated
        if config.max_http_unauthenticated < 1 or member_count < 1:
            raise ConfigError(
                "LUTHIER_INFERENCE_MAX_HTTP_UNAUTHENTICATED must be at least 1 and less than "
                "LUTHIER_INFERENCE_MAX_HTTP_CONNECTIONS",
                metadata={"variable": "LUTHIER_INFERENCE_MAX_HTTP_UNAUTHENTICATED"},
            )
        self.config = config
        self.strangers = Places(config.max_http_unauthenticated, can_be_cut=True)
        self.members = Places(member_count)

    def leave(self, place: Place) -> None:
        """The connection is closed."""
        self.strangers.leave(place)
        self.members.leave(place)


class Connection(HttpToolsProtocol):
    """A connection that keeps to the limits; `place` is its place among the strangers."""

    def __init__(self, door: Door, place: Place, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn, app_state={AUTHORISED: self._authorised})
        self._door, self._place, self._limits = door, place, door.config
        self._is_member = self._is_in_body = self._is_too_large = False
        self._header_bytes = self._field_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._place.give_up = self._give_up
        self._limit()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()
        self._door.leave(self._place)

    def data_received(self, data: bytes) -> None:
        if not self._is_in_body:
            self._header_bytes += len(data)
        super().data_received(data)
        if not self._is_in_body and self._header_bytes > self._limits.max_http_header_bytes:
            self._is_too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._field_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name, value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._header_bytes, self._is_in_body = 0, True
        self._limit()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_body = False
        self._limit()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._limit()

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed ends the connection, with an error like all others."""
        if self._is_too_large:
            limit = self._limits.max_http_header_bytes
            self._refuse(431, "HEADERS_TOO_LARGE", f"the headers are larger than {limit} bytes")
        else:
            self._refuse(400, "INVALID_ARGUMENT", "this is not an HTTP/1.1 request")

    def _count(self, *parts: bytes) -> None:
        """Ends the parsing once a header is too large; the exact size, however it was cut into packets."""
        self._field_bytes += sum(len(part) + 2 for part in parts)  # each with a colon and blank, or a line's end
        if self._field_bytes > self._limits.max_http_header_bytes:
            self._is_too_large = True
            raise ValueError("the headers are too large")

    def _authorised(self, tenant: str) -> None:
        if self._is_member:
            return
        self._door.strangers.leave(self._place)
        self._place.owner, self._place.is_idle, self._is_member = tenant, False, True
        if not self._door.members.enter(self._place):
            raise ConnectionsExhaustedError("every connection is in use; try again later")

    def _limit(self) -> None:
        """Sets the time for what is waited for now: a request, the rest of a body, or (no limit) an answer."""
        self._stop_timer()
        limits, cycle = self._limits, self.cycle
        is_waiting = not self.pipeline and (cycle is None or cycle.response_complete)
        if is_waiting:
            limit_s = limits.http_idle_limit_s if self._is_member else limits.http_header_limit_s
            self._door.members.rest(self._place)
        else:
            limit_s = limits.http_body_limit_s if cycle.more_body and not self.pipeline else 0.0
        self._place.is_idle = is_waiting
        if limit_s and not self.transport.is_closing():
            self._timer = self.loop.call_later(limit_s, self._expire)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        is_asking = bool(self._header_bytes) or self._is_in_body
        metrics.http_closed.labels("too_slow" if is_asking else "idle").inc()
        if is_asking:
            self._refuse(408, "REQUEST_TOO_SLOW", "the request did not arrive in time")
        else:
            self.transport.abort()

    def _give_up(self) -> None:
        metrics.http_closed.labels("replaced").inc()
        self.transport.abort()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """An error in OpenAI's format, then the end of the connection; only the end if the request has an answer."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is None or (not cycle.response_started if self._is_in_body else cycle.response_complete):
            error = {"message": message, "type": "invalid_request_error", "code": code, "param": None}
            body = json.dumps({"error": error}).encode()
            head = f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()
