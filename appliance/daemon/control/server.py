"""The control socket: HTTP/1.1 on a unix socket, for processes of the daemon's own user and of root.

Access is decided by the kernel's word on the peer (SO_PEERCRED, unix(7)), never by what a request says; file modes
are the second fence. Errors leave as problem+json (RFC 9457) with the id of the request, which the log names too.
Every request is bounded in size and time; a stream is bounded in the time between two lines.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from appliance.core.errors import X0tError, error
from appliance.core.limits import Limits
from appliance.daemon import events

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
STREAMS: web.RequestKey[bool] = web.RequestKey("streams", bool)
SHUTDOWN_S = 0.5  # for requests to end, and once more after they were cancelled; a clean stop has two seconds
_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)

_log: structlog.stdlib.BoundLogger = structlog.get_logger("control")


class ControlServer:
    """Serves the routes on one socket until cancelled."""

    def __init__(self, path: Path, routes: Iterable[web.RouteDef], limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._app = web.Application(
            middlewares=[_credentials, _errors(limits)], client_max_size=limits.control_body_bytes
        )
        self._app.router.add_routes(routes)
        self._app.freeze()

    async def serve(self, ready: Callable[[], None]) -> None:
        """Bind, call `ready`, and answer until cancelled; then let running requests end."""
        runner = web.AppRunner(
            self._app,
            access_log=None,
            shutdown_timeout=SHUTDOWN_S,
            keepalive_timeout=self._limits.control_request_s,  # for the head of a request, the first one too
            lingering_time=SHUTDOWN_S,  # for the rest of a question that was answered before it was whole
        )
        await runner.setup()
        sock = bind_private(self._path)
        try:
            await web.SockSite(runner, sock).start()
            ready()
            await asyncio.Event().wait()
        finally:
            self._path.unlink(missing_ok=True)
            await runner.cleanup()


def bind_private(path: Path) -> socket.socket:
    """A listening unix socket of mode 0600 in a directory that only its owner may write to.

    A socket left by a daemon that died is replaced; one that still answers is not. Raises `control.socket`.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.parent.stat()
        if info.st_uid != os.geteuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise error("control.socket", path=str(path), reason="others may write to its directory")
        if path.is_socket():
            _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.bind(str(path))  # main() has set umask 077, so there is no moment with a wider mode
            path.chmod(0o600)
            sock.listen(64)
        except OSError:
            sock.close()
            raise
    except OSError as err:
        raise error("control.socket", path=str(path), reason=err.strerror or str(err)) from err
    return sock


def _remove_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise error("control.socket", path=str(path), reason="another daemon answers there")


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Process id and user id at the other end, as the kernel recorded them when it connected."""
    pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


@web.middleware
async def _credentials(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id, and turn away all users but root and our own."""
    request[REQUEST_ID] = secrets.token_hex(8)
    transport = request.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:
        return problem(error("control.interrupted"), request)
    pid, uid = peer_of(sock)
    if uid not in (0, os.geteuid()):
        _log.warning(events.CONTROL_DENIED, uid=uid, pid=pid)
        return problem(error("control.peer_credentials", uid=uid), request)
    return await handler(request)


def _errors(limits: Limits) -> Middleware:
    """The one place where an exception becomes an answer."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        started_s = asyncio.get_running_loop().time()
        response = await _answer(request, handler, limits)
        took_ms = round((asyncio.get_running_loop().time() - started_s) * 1000, 1)
        _log.debug(
            events.CONTROL_REQUEST,
            method=request.method,
            path=request.path,
            status=response.status,
            ms=took_ms,
            request=request[REQUEST_ID],
        )
        return response

    return answer


async def _answer(request: web.Request, handler: Handler, limits: Limits) -> web.StreamResponse:
    streams = getattr(request.match_info.handler, "streams", False)
    try:
        async with asyncio.timeout(limits.control_request_s) as limit:
            if streams:
                await request.read()  # the question is bounded in time, and what it takes to answer is not
                limit.reschedule(None)
            return await handler(request)
    except X0tError as err:
        return problem(err, request)
    except TimeoutError:
        return problem(error("control.timeout", seconds=limits.control_request_s), request)
    except (msgspec.DecodeError, web.RequestPayloadError) as err:  # ValidationError is one
        return problem(error("control.request", reason=str(err)), request)
    except ConnectionError:  # it left before its request was whole, or before the answer was
        return problem(error("control.interrupted"), request)
    except web.HTTPRequestEntityTooLarge:
        return problem(error("control.body_size", limit=limits.control_body_bytes), request)
    except web.HTTPException:
        return problem(error("control.route", method=request.method, path=request.path), request)
    except Exception:
        _log.exception(events.CONTROL_FAILED, request=request[REQUEST_ID], path=request.path)
        return problem(error("control.failed", request=request[REQUEST_ID]), request)


def problem(err: X0tError, request: web.Request) -> web.Response:
    """An error as application/problem+json."""
    body = err.problem() | {"exit_code": err.exit_code, "instance": f"urn:x0t:request:{request[REQUEST_ID]}"}
    return web.Response(status=err.status, body=msgspec.json.encode(body), content_type="application/problem+json")
