"""A local OpenAI-compatible server that judges as a test says: well, or broken in one of the ways that judges break."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

# What a script may return instead of a text.
CUT_BODY = object()  # the HTTP body ends in the middle of its JSON
HANG_UP = object()  # the connection is closed without an answer
SILENCE = object()  # no answer until the house closes

Script = Callable[[dict[str, Any]], Any]


@dataclass
class JudgeHouse:
    """`asked`: every request body; `headers`: their headers. A script returns a text, a status, or one of the above."""

    script: Script
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)
    running: int = 0
    most_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self.lock:
            self.asked.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            said = self.script(body)
        finally:
            with self.lock:
                self.running -= 1
        if said is SILENCE:
            self.closing.wait(30)
        if said is SILENCE or said is HANG_UP:
            handler.close_connection = True
            return
        status, text = (said, "") if isinstance(said, int) else (200, said)
        message = {"role": "assistant", "content": "" if said is CUT_BODY else text}
        reply = {
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5},
        }
        data = json.dumps(reply if status == 200 else {"error": {"message": f"key {handler.headers}"}}).encode()
        data = data[: len(data) // 2] if said is CUT_BODY else data
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)


@contextlib.contextmanager
def judge_server(script: Script) -> Iterator[JudgeHouse]:
    """The house, on a free port of loopback, while the block runs."""
    house = JudgeHouse(script)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # one packet an answer: two would wait for each other (Nagle, delayed acknowledgement)

        def do_POST(self) -> None:
            house.answer(self)

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    house.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield house
    finally:
        house.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
