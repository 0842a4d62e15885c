"""Connections to the HTTP endpoint, over real sockets: silent, slow, too large, too many."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
from luthierd.config import ConfigError
from luthierd.inference.config import InferenceConfig
from luthierd.inference.http.door import ConnectionsExhaustedError, Door, authorised
from luthierd.inference.http.server import HttpServer
from support.certificates import self_signed
from support.waiting import until

LIMIT_S = 5.0
SHORT_S = 0.15
MORE_THAN_ALL = 40
"""Connections; the servers below take at most 12."""
ROOM = {"max_http_connections": 12, "max_http_unauthenticated": 8}

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Application:
    """Answers with the path; a request with a token (the tenant's name) is authorised. `gate` holds answers back."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        token = dict(scope["headers"]).get(b"authorization", b"").decode()
        status = 200 if token or scope["path"] == "/health" else 401
        try:
            if token:
                authorised(scope, token)
        except ConnectionsExhaustedError:
            status = 429
        self.asked.append(scope["path"])
        if scope["path"] == "/body":
            while (message := await receive()).get("more_body"):
                pass
            if message["type"] == "http.disconnect":
                return
        await self.gate.wait()
        body = scope["path"].encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[HttpServer, Application]]:
    application = Application()
    http = HttpServer(application, InferenceConfig(grace_s=1, **settings))
    task = asyncio.create_task(http.run())
    try:
        yield http, application
    finally:
        await http.close()
        await task


async def connect(http: HttpServer) -> Stream:
    return await asyncio.open_connection("127.0.0.1", http.port)


async def ask(stream: Stream, path: str = "/health", *, tenant: str = "") -> str:
    """The status line and body of the answer to one request."""
    stream[1].write(request(path, tenant=tenant))
    return await answer(stream)


def request(path: str = "/health", *, tenant: str = "", more: str = "") -> bytes:
    token = f"authorization: {tenant}\r\n" if tenant else ""
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n{token}{more}\r\n".encode()


async def answer(stream: Stream) -> str:
    head = (await asyncio.wait_for(stream[0].readuntil(b"\r\n\r\n"), LIMIT_S)).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    return f"{head.split()[1]} {(await stream[0].readexactly(length)).decode()}"


async def rest(stream: Stream) -> bytes:
    """All that still comes until the server closes the connection."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(stream[0].read(), LIMIT_S)
    return b""


async def drip(stream: Stream, byte: bytes = b"x") -> bytes:
    """Sends a byte again and again until the server closes the connection; what the server said."""
    closing = asyncio.create_task(rest(stream))
    while not closing.done():
        with contextlib.suppress(ConnectionError):
            stream[1].write(byte)
        await asyncio.wait([closing], timeout=0.02)
    return closing.result()


# --- too many ---


async def test_silent_connections_lock_out_neither_health_nor_tenants() -> None:
    async with serving(**ROOM) as (http, _):
        silent = [await connect(http) for _ in range(MORE_THAN_ALL)]
        assert await ask(await connect(http)) == "200 /health"
        assert await ask(await connect(http), "/v1/models", tenant="acme") == "200 /v1/models"
        assert await rest(silent[0]) == b""


async def test_no_number_of_strangers_takes_the_connection_of_a_tenant() -> None:
    async with serving(**ROOM) as (http, _):
        mine = await connect(http)
        assert await ask(mine, "/1", tenant="acme") == "200 /1"
        strangers = [await connect(http) for _ in range(MORE_THAN_ALL)]
        assert [await ask(one, "/none") for one in strangers[-3:]] == ["401 /none"] * 3
        assert await ask(mine, "/2", tenant="acme") == "200 /2"


async def test_a_tenant_with_many_idle_connections_loses_its_own() -> None:
    async with serving(**ROOM) as (http, _):
        other = await connect(http)
        assert await ask(other, "/other", tenant="globex") == "200 /other"
        many = [await connect(http) for _ in range(6)]  # with the other one more than the four places of tenants
        for one in many:
            assert await ask(one, "/many", tenant="acme") == "200 /many"
        assert await rest(many[0]) == b""
        assert await ask(other, "/again", tenant="globex") == "200 /again"
        assert await ask(many[-1], "/again", tenant="acme") == "200 /again"


async def test_a_connection_that_waits_for_its_answer_is_never_taken() -> None:
    async with serving(**ROOM) as (http, application):
        application.gate.clear()
        busy = [await connect(http) for _ in range(4)]
        for one in busy:
            one[1].write(request("/slow", tenant="acme"))
        await until(lambda: len(application.asked) == 4)
        late = await connect(http)
        late[1].write(request("/late", tenant="globex"))
        await until(lambda: len(application.asked) == 5)
        application.gate.set()
        assert await answer(late) == "429 /late"
        assert [await answer(one) for one in busy] == ["200 /slow"] * 4


@pytest.mark.parametrize("unauthenticated", [0, 12, 13])
def test_places_must_be_left_for_both_kinds(unauthenticated: int) -> None:
    with pytest.raises(ConfigError, match="MAX_HTTP_UNAUTHENTICATED"):
        Door(InferenceConfig(max_http_connections=12, max_http_unauthenticated=unauthenticated))


# --- too slow ---


@pytest.mark.parametrize(
    ("sent", "said"), [(b"", b""), (b"GET /health HT", b"408"), (b"GET /health HTTP/1.1\r\nx: ", b"408")]
)
async def test_a_request_that_never_comes_is_not_waited_for(sent: bytes, said: bytes) -> None:
    async with serving(http_header_limit_s=SHORT_S) as (http, _):
        stream = await connect(http)
        stream[1].write(sent)
        assert said in await rest(stream)


async def test_dripping_bytes_do_not_extend_the_time_for_a_header() -> None:
    async with serving(http_header_limit_s=SHORT_S) as (http, _):
        stream = await connect(http)
        stream[1].write(b"GET /health HTTP/1.1\r\nx: ")
        said = await drip(stream)  # a byte sent after the end may have the kernel throw the answer away
    assert said == b"" or b"REQUEST_TOO_SLOW" in said


async def test_dripping_bytes_do_not_extend_the_time_for_a_body() -> None:
    async with serving(http_body_limit_s=SHORT_S) as (http, _):
        stream = await connect(http)
        stream[1].write(request("/body", tenant="acme", more="content-length: 1000\r\n"))
        said = await drip(stream)
    assert said == b"" or b"REQUEST_TOO_SLOW" in said


async def test_the_body_of_a_refused_request_is_not_read_for_ever() -> None:
    async with serving(http_header_limit_s=SHORT_S) as (http, _):
        stream = await connect(http)
        stream[1].write(request("/none", more="content-length: 1000\r\n"))
        assert await answer(stream) == "401 /none"
        assert await drip(stream) == b""


async def test_an_idle_connection_of_a_tenant_is_closed_after_its_own_time() -> None:
    async with serving(http_idle_limit_s=SHORT_S) as (http, _):
        stream = await connect(http)
        assert await ask(stream, "/1", tenant="acme") == "200 /1"
        assert await rest(stream) == b""


async def test_an_answer_may_take_longer_than_all_limits() -> None:
    limits = dict.fromkeys(("http_header_limit_s", "http_body_limit_s", "http_idle_limit_s"), SHORT_S)
    async with serving(**limits) as (http, application):
        application.gate.clear()
        stream = await connect(http)
        stream[1].write(request("/slow", tenant="acme"))
        await until(lambda: application.asked)
        assert await rest(await connect(http)) == b""  # begun later, and closed by its limit
        application.gate.set()
        assert await answer(stream) == "200 /slow"


async def test_a_tls_handshake_that_never_comes_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    files = self_signed(tmp_path)
    tls = {"tls_certificate_path": files.certificate, "tls_key_path": files.key}
    context = ssl.create_default_context(cafile=str(files.certificate))
    async with serving(http_header_limit_s=1.0, **ROOM, **tls) as (http, _):
        silent = [await connect(http) for _ in range(MORE_THAN_ALL)]
        speaking = await asyncio.open_connection("localhost", http.port, ssl=context)
        assert await ask(speaking) == "200 /health"
        assert [await rest(one) for one in (silent[0], silent[-1])] == [b"", b""]
        speaking[1].close()


# --- too large, and not HTTP ---


@pytest.mark.parametrize(
    "sent",
    [
        request(more="x: " + "y" * 5000 + "\r\n"),
        request(more="".join(f"x-{number}: y\r\n" for number in range(500))),
        request("/" + "y" * 5000),
        b"GET /health HTTP/1.1\r\nx: " + b"y" * 500_000,
    ],
    ids=["one long field", "many fields", "a long path", "a field without end"],
)
@pytest.mark.parametrize("cut", [1, 400])
async def test_a_header_has_a_bound_however_it_is_cut(sent: bytes, cut: int) -> None:
    async with serving(max_http_header_bytes=4096) as (http, application):
        stream = await connect(http)
        for start in range(0, len(sent), -(-len(sent) // cut)):
            with contextlib.suppress(ConnectionError):
                stream[1].write(sent[start : start + -(-len(sent) // cut)])
                await stream[1].drain()
        said = await rest(stream)
    assert application.asked == []
    assert said == b"" or json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "HEADERS_TOO_LARGE"


async def test_what_is_no_http_is_refused_in_the_form_of_openai() -> None:
    async with serving() as (http, _):
        stream = await connect(http)
        stream[1].write(b"\x16\x03\x01 hello\r\n\r\n")
        head, _, body = (await rest(stream)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == "INVALID_ARGUMENT"


async def test_pipelined_requests_are_answered_in_order_and_then_the_connection_is_idle() -> None:
    async with serving(http_header_limit_s=SHORT_S) as (http, _):
        stream = await connect(http)
        stream[1].write(b"".join(request(f"/{number}") for number in range(50)))
        assert [await answer(stream) for _ in range(50)] == [f"401 /{number}" for number in range(50)]
        assert await rest(stream) == b""


async def test_a_request_for_a_websocket_is_answered_as_a_plain_one() -> None:
    async with serving() as (http, _):
        stream = await connect(http)
        more = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n"
        stream[1].write(request(more=more))
        assert await answer(stream) == "200 /health"
