"""Client of the control socket: HTTP/1.1 over a unix socket with the standard library alone, so that it starts quickly.

It turns problem+json back into our error families and never prints. Standard: RFC 9112, RFC 9457.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Generator
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from appliance.cli.problem import Problem, as_error
from appliance.core.errors import error
from appliance.core.records import Progress

T = TypeVar("T")
CONNECT_S = 5.0
ANSWER_S = 90.0  # above control_request_s, so that the daemon's own limit speaks first
STREAM_SILENCE_S = 600.0  # between two lines of a stream


class _StreamEnd(msgspec.Struct):
    event: str
    result: msgspec.Raw = msgspec.Raw(b"null")
    problem: Problem | None = None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("x0td", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_S)
        self.sock.connect(self._path)
        self.sock.settimeout(self.timeout)


def segment(text: str) -> str:
    """A part of a path, of whatever characters a person typed."""
    return quote(text, safe="")


class Client:
    """Asks one daemon. Each call is one connection; a refused one is `control.daemon_down`."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path

    def get(self, path: str, schema: type[T], **query: str | int) -> T:
        """Read a resource as a record."""
        target = f"{path}?{urlencode(query)}" if query else path
        return msgspec.json.decode(self._ask("GET", target, None), type=schema)

    def send(self, method: str, path: str, body: object, schema: type[T]) -> T:
        """Change a resource; the answer is a record."""
        return msgspec.json.decode(self._ask(method, path, body), type=schema)

    def work(self, path: str, body: object, schema: type[T], show: Callable[[Progress], None]) -> T:
        """Start long work, call `show` for each line of progress, and return its result."""
        for line in self.lines("POST", path, body):
            end = msgspec.json.decode(line, type=_StreamEnd)
            if end.event == "progress":
                show(msgspec.json.decode(line, type=Progress))
            elif end.problem is not None:
                raise as_error(end.problem)
            else:
                return msgspec.json.decode(end.result, type=schema)
        raise error("control.interrupted")

    def lines(self, method: str, path: str, body: object = None) -> Generator[bytes, None, None]:
        """The lines of a stream, until the daemon ends it."""
        connection, response = self._open(method, path, body, STREAM_SILENCE_S)
        try:
            while line := response.readline():
                yield line
        except (OSError, http.client.HTTPException) as err:
            raise error("control.interrupted") from err
        finally:
            connection.close()

    def _ask(self, method: str, path: str, body: object) -> bytes:
        connection, response = self._open(method, path, body, ANSWER_S)
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as err:
            raise error("control.interrupted") from err
        finally:
            connection.close()

    def _open(
        self, method: str, path: str, body: object, timeout_s: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = _UnixConnection(self._path, timeout_s)
        try:
            connection.connect()
        except OSError as err:
            connection.close()
            raise error("control.daemon_down", path=self._path, reason=err.strerror or str(err)) from err
        try:
            connection.request(
                method,
                f"/v1{path}",
                body=None if body is None else msgspec.json.encode(body),
                headers={} if body is None else {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as err:
            connection.close()
            raise error("control.interrupted") from err
        if response.status >= http.client.BAD_REQUEST:
            try:
                raise _refusal(response)
            finally:
                connection.close()
        return connection, response


def _refusal(response: http.client.HTTPResponse) -> Exception:
    try:
        return as_error(msgspec.json.decode(response.read(), type=Problem))
    except msgspec.DecodeError:  # the HTTP server's own: it could not read the request so far as to ask the daemon
        return error("control.request", reason=f"HTTP status {response.status} {response.reason}")
    except (OSError, http.client.HTTPException):
        return error("control.interrupted")
