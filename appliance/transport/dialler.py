"""Connects to a node by address and key: the one expected, or any that is permitted.

Each stream has a connection of its own. Nothing is sent before the peer's key is known to be right, no
redirect is followed and no name in a certificate is believed. Retrying is for the caller; `backoff_s` says
how long to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientHandlerType,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ClientWebSocketResponse,
    ClientWSTimeout,
    DummyCookieJar,
    TCPConnector,
    WSServerHandshakeError,
)
from yarl import URL

from appliance.core.errors import X0tError, error
from appliance.core.limits import Limits
from appliance.transport.address import Address
from appliance.transport.certificates import Credentials
from appliance.transport.channel import PqChannel, TlsFailure
from appliance.transport.peers import Permitted, Verdict
from appliance.transport.pqtls import PqContext
from appliance.transport.stream import REFUSAL_HEADER, SYNC_PATH, BoundStream, WebSocketStream, Wire


class Dialler:
    """Opens streams as the node of *credentials*."""

    def __init__(self, credentials: Credentials, permitted: Permitted, limits: Limits) -> None:
        self._credentials = credentials
        self._permitted = permitted
        self._limits = limits

    async def open(self, address: Address, expected: bytes | None = None, path: str = SYNC_PATH) -> BoundStream:
        """A stream to the node *expected* (a node id; None: any permitted one) within `Limits.handshake_s`.

        Raises keys of `tls.*`: our refusals by their own keys, those of the peer as `tls.refused` or
        `tls.peer_busy` with the peer's key as `reason`, and `tls.unreachable`.
        """
        verdict = Verdict(self._permitted, self._credentials.now_ms, expected)
        session = _session(self._credentials.context(verdict))
        try:
            async with asyncio.timeout(self._limits.handshake_s):
                socket = await self._connect(session, address, path)
            channel = socket.get_extra_info("ssl_object")
            if not isinstance(channel, PqChannel) or channel.peer is None:  # gone again already
                raise error("stream.cut", reason="the peer left at once")
            wire = Wire(socket, channel.peer, channel.get_channel_binding(), session.close)
        except BaseException as err:
            await session.close()
            if isinstance(err, TimeoutError):
                raise error("tls.handshake_timeout", seconds=self._limits.handshake_s) from err
            if isinstance(err, ClientError | OSError | ValueError):  # ValueError: no host can have such a name
                raise _explained(err, address) from err
            raise
        return WebSocketStream(wire, self._limits, self._limits.sync_frame_bytes)

    async def _connect(self, session: ClientSession, address: Address, path: str) -> ClientWebSocketResponse[bool]:
        return await session.ws_connect(
            URL.build(scheme="https", host=address.host, port=address.port, path=path),
            timeout=ClientWSTimeout(ws_close=self._limits.refusal_s),
            heartbeat=self._limits.heartbeat_s,
            max_msg_size=self._limits.sync_frame_bytes + 1,  # aiohttp refuses what reaches the number
        )


def backoff_s(attempt: int, jitter: float, limits: Limits) -> float:
    """Seconds to wait after failure number *attempt* (from 0): doubling, its upper half chosen by *jitter*.

    *jitter* is in [0, 1): peers that lost the same hub must not come back in step.
    """
    ceiling = min(limits.redial_max_s, limits.peer_backoff_min_s << min(attempt, 32))
    return max(float(limits.peer_backoff_min_s), ceiling * (1 + jitter) / 2)


def _session(context: PqContext) -> ClientSession:
    return ClientSession(
        connector=TCPConnector(ssl=context, limit=1, force_close=True),
        cookie_jar=DummyCookieJar(),
        timeout=ClientTimeout(total=None, sock_connect=None),
        middlewares=(_refuse_redirects,),
    )


async def _refuse_redirects(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    response = await handler(request)
    if 300 <= response.status < 400:  # the peer must not choose where we connect next
        response.close()
        raise error("tls.refused", reason=f"HTTP status {response.status}")
    return response


def _explained(err: ClientError | OSError | ValueError, address: Address) -> X0tError:
    for cause in _causes(err):
        match cause:
            case TlsFailure():
                return cause.refusal
            case WSServerHandshakeError():
                said = cause.headers.get(REFUSAL_HEADER) if cause.headers else None
                reason = said or f"HTTP status {cause.status}"
                return error("tls.peer_busy" if cause.status == 503 else "tls.refused", reason=reason)
            case ClientConnectorError():
                reason = cause.os_error.strerror or type(cause.os_error).__name__
                return error("tls.unreachable", address=address, reason=reason)
            case _:
                continue
    return error("tls.unreachable", address=address, reason=str(err) or type(err).__name__)


def _causes(err: BaseException) -> Iterator[BaseException]:
    """The innermost first: what TLS said is more exact than what aiohttp made of it."""
    if err.__cause__ is not None:
        yield from _causes(err.__cause__)
    yield err
