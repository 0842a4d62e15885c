"""An S3 server of the tests' own: moto's, on loopback, in a thread of the test process. It keeps its objects when it is
stopped and started again.
"""

from __future__ import annotations

import contextlib
import http.server
import logging
import threading
import urllib.request
from collections.abc import Iterator

import pytest
import s3fs
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from support.ports import free_port

BUCKET = "luthier-tests"


class ObjectStore:
    """What clients need to know to reach it is in `environment`, under the names that every S3 client reads."""

    def __init__(self) -> None:
        self._port = free_port()
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.environment = {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",  # no one asks a cloud for credentials
            "AWS_MAX_ATTEMPTS": "1",  # seconds less for each call while it is stopped
        }
        self.url = f"s3://{BUCKET}/blobs"
        self._server: ThreadedMotoServer | None = None

    def start(self) -> None:
        """Returns when it answers."""
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request otherwise
        self._server = ThreadedMotoServer("127.0.0.1", self._port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """Connections are refused from now on."""
        assert self._server is not None
        self._server.stop()
        self._server._server.server_close()  # type: ignore[union-attr]

    def make_bucket(self) -> None:
        """A bucket is its operator's; the services do not make one."""
        with urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{BUCKET}", method="PUT")):
            pass


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Runs one with a bucket while the block runs, unless the block stops it. Sets the environment of this process."""
    made = ObjectStore()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment.items():
            patch.setenv(name, value)
        made.start()
        made.make_bucket()
        try:
            yield made
        finally:
            made.stop()


class _Refuser(http.server.BaseHTTPRequestHandler):
    """403 to whatever is asked."""

    BODY = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

    def _refuse(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(403)
        self.send_header("content-length", str(len(self.BODY)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.BODY)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _refuse

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def refusing_store(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server that accepts no credentials; gives the URL of a blob store on it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refuser)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    patch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_address[1]}")
    s3fs.S3FileSystem.clear_instance_cache()  # fsspec keeps clients by their arguments, which are the same
    try:
        yield "s3://refused/blobs"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.shutdown()
        thread.join()
        server.server_close()
