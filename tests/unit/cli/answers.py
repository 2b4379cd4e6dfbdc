"""A daemon's socket that gives prepared answers and remembers what it was asked."""

from __future__ import annotations

import http.server
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from appliance.cli.main import run
from appliance.core.errors import X0tError


class Daemon:
    """Answers by method and path with a record, or an error."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.answers: dict[tuple[str, str], object] = {}
        self.streams: dict[str, list[object]] = {}
        self.asked: list[tuple[str, str, dict[str, object]]] = []

    def x0t(self, *arguments: str) -> int:
        """Run a command in this process; its exit code."""
        return run(["--socket", str(self.socket_path), *arguments])

    def bodies(self, path: str) -> list[dict[str, object]]:
        """What was sent there."""
        return [body for method, asked, body in self.asked if asked == path and method != "GET"]

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body."""
        self.asked.append((method, path, msgspec.json.decode(body) if body else {}))
        if path in self.streams:
            return 200, b"".join(msgspec.json.encode(line) + b"\n" for line in self.streams[path])
        found = self.answers[method, path]
        if isinstance(found, X0tError):
            found = found.problem()
        is_problem = isinstance(found, dict) and "type" in found
        return 409 if is_problem else 200, msgspec.json.encode(found)


@contextmanager
def answering(socket_path: Path) -> Iterator[Daemon]:
    """A daemon that listens until the block ends."""
    daemon = Daemon(socket_path)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            status, body = daemon.answer(self.command, self.path.removeprefix("/v1"), self.rfile.read(size))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PATCH = do_GET  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_: object) -> None:
            pass

        def address_string(self) -> str:
            return "unix"

    class Server(socketserver.UnixStreamServer):
        def get_request(self) -> tuple[object, tuple[str, int]]:  # type: ignore[override]
            request, _ = super().get_request()
            return request, ("unix", 0)

    with Server(str(socket_path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield daemon
        finally:
            server.shutdown()
            thread.join()
