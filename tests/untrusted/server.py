"""A web server that misbehaves on request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Route = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers below `url` by `routes`; keeps (path, headers) of every request."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # noqa: N802
                server.requests.append((self.path, dict(self.headers)))
                self.close_connection = True
                server.routes.get(self.path, status(404))(self)

            def log_message(self, *words: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()

    def file(
        self,
        path: str,
        content: bytes,
        *,
        etag: str = '"1"',
        ranges: bool = True,
        cuts: Iterable[int] = (),
    ) -> str:
        """Serve a file, and return its address; the first answers break off after `cuts` bytes."""
        ends = list(cuts)

        def answer(handler: BaseHTTPRequestHandler) -> None:
            start = 0
            requested = handler.headers.get("Range")
            if requested and ranges and handler.headers.get("If-Range") == etag:
                start = int(requested.removeprefix("bytes=").rstrip("-"))
            body = content[start:]
            headers = {
                "Content-Type": "application/zip",
                "Content-Length": str(len(body)),
                "ETag": etag,
            }
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            respond(handler, 206 if start else 200, headers)
            body = body[: ends.pop(0)] if ends else body
            handler.wfile.write(body)
            self.sent += len(body)

        self.routes[path] = answer
        return self.url + path


def respond(handler: BaseHTTPRequestHandler, code: int, headers: dict[str, str]) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


def status(
    code: int, body: bytes = b"<html>no</html>", kind: str = "text/html", **headers: str
) -> Route:
    """Return an answer of a status and a page."""
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), **headers}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        respond(handler, code, headers)
        handler.wfile.write(body)

    return answer


def chunked(chunks: list[bytes], is_whole: bool) -> Route:
    """Return an answer of unannounced length; it breaks off before its end unless it is whole."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        respond(handler, 200, {"Transfer-Encoding": "chunked"})
        for chunk in [*chunks, b""] if is_whole else chunks:
            handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")

    return answer


def drip(length: int, interval_s: float, head: bytes = b"") -> Route:
    """Return an answer that announces `length` bytes and sends one now and then."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        respond(handler, 200, {"Content-Length": str(length)})
        with suppress(OSError):  # the client has gone
            handler.wfile.write(head)
            for _ in range(length):
                time.sleep(interval_s)
                handler.wfile.write(b"x")
                handler.wfile.flush()

    return answer


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Run a server on this machine, past any proxy of the environment."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    with Server().running() as server:
        yield server
