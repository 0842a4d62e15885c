"""A hub on loopback that speaks as much of Hugging Face's protocol as a download needs, and can break connections."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import pathlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40
SIGNATURE = "not-for-logs"


@dataclass
class SmallHub:
    """folder: of the one repository. token: without it, nothing is shown; empty: everything is public.
    cut_after_bytes: connections that send weights break after so many bytes, `cuts` times. asked: method, path and
    `Range` of every request; tokens: what came as `Authorization`.
    """

    folder: pathlib.Path
    repository: str = "acme/tiny"
    commit: str = COMMIT
    token: str = ""
    is_gated: bool = False
    cut_after_bytes: int = 0
    cuts: int = 0
    url: str = ""
    damaged: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    def siblings(self) -> list[dict[str, object]]:
        """The files as the API lists them; weights are kept by digest."""
        found: list[dict[str, object]] = []
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            one: dict[str, object] = {
                "rfilename": path.relative_to(self.folder).as_posix(),
                "size": path.stat().st_size,
                "blobId": "0" * 40,
            }
            if path.suffix == ".safetensors":
                sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
                one["lfs"] = {"sha256": sha256, "size": path.stat().st_size, "pointerSize": 128}
            found.append(one)
        return found

    def downloads(self, name: str) -> list[str]:
        """The `Range` of each GET of a file."""
        return [given for method, path, given in self.asked if method == "GET" and path.endswith(f"/{name}")]


@contextlib.contextmanager
def small_hub(hub: SmallHub) -> Iterator[SmallHub]:
    """Serves it while the block runs; `hub.url` says where."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            _answer(self, hub, with_body=False)

        def do_GET(self) -> None:
            _answer(self, hub, with_body=True)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(call: http.server.BaseHTTPRequestHandler, hub: SmallHub, *, with_body: bool) -> None:
    path, given = call.path.partition("?")[0], call.headers.get("Range", "")
    hub.asked.append((call.command, path, given))
    hub.tokens.add(call.headers.get("Authorization", ""))
    if hub.token and not path.startswith("/cdn/") and call.headers.get("Authorization") != f"Bearer {hub.token}":
        _send(call, 401, b"", {"X-Error-Code": "GatedRepo" if hub.is_gated else "RepoNotFound"})
        return
    revisions = {"main", hub.commit}
    if api := re.fullmatch(rf"/api/models/{re.escape(hub.repository)}(?:/revision/(.+))?", path):
        if (api[1] or "main") not in revisions:
            _send(call, 404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        info = {"id": hub.repository, "modelId": hub.repository, "sha": hub.commit, "siblings": hub.siblings()}
        _send(call, 200, json.dumps(info).encode(), {"Content-Type": "application/json"})
    elif path.startswith("/cdn/") and (hub.folder / path.removeprefix("/cdn/")).is_file():
        _send_file(call, hub, hub.folder / path.removeprefix("/cdn/"), given, with_body=with_body)
    elif file := re.fullmatch(rf"/{re.escape(hub.repository)}/resolve/([^/]+)/(.+)", path):
        if file[1] not in revisions or not (hub.folder / file[2]).is_file():
            _send(call, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        if file[2].endswith(".safetensors"):  # from other machines, by signed addresses
            content = (hub.folder / file[2]).read_bytes()
            signed = {"Location": f"{hub.url}/cdn/{file[2]}?signature={SIGNATURE}", "X-Repo-Commit": hub.commit}
            linked = {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
            _send(call, 302, b"", signed | linked)
            return
        _send_file(call, hub, hub.folder / file[2], given, with_body=with_body)
    else:
        _send(call, 404, b"", {"X-Error-Code": "RepoNotFound"})


def _send_file(
    call: http.server.BaseHTTPRequestHandler, hub: SmallHub, path: pathlib.Path, given: str, *, with_body: bool
) -> None:
    content = path.read_bytes()
    headers = {
        "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
        "X-Repo-Commit": hub.commit,
        "X-Linked-Size": str(len(content)),
        "Accept-Ranges": "bytes",
    }
    if path.name in hub.damaged:
        content = bytes(len(content))
    begin = int(given.removeprefix("bytes=").rstrip("-")) if given else 0
    if given:
        headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
    body = content[begin:]
    is_cut = with_body and hub.cuts > 0 and path.suffix == ".safetensors"
    sent = body[: hub.cut_after_bytes] if is_cut else body
    call.send_response(206 if given else 200)
    for name, value in headers.items():
        call.send_header(name, value)
    call.send_header("Content-Length", str(len(body)))
    call.end_headers()
    if with_body:
        call.wfile.write(sent)
    if is_cut:
        hub.cuts -= 1
        call.close_connection = True


def _send(call: http.server.BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
    call.send_response(status)
    for name, value in headers.items():
        call.send_header(name, value)
    call.send_header("Content-Length", str(len(body)))
    call.end_headers()
    if call.command == "GET":
        call.wfile.write(body)
