"""Client of the daemon's admin socket: JSON over a unix socket, one connection a request, bounded in size and time.

Answers are decoded into structs; fields that a newer daemon adds are passed over. Whoever can reach the socket
commands the daemon, so it lies in a directory of the daemon's user alone. This module decides nothing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.core.yggdrasil import KEY_BYTES

Hex = Annotated[str, Meta(pattern=rf"^([0-9a-f]{{{2 * KEY_BYTES}}})?$")]  # a key; empty while it is not known
Text = Annotated[str, Meta(max_length=2_048)]
Count = Annotated[int, Meta(ge=0)]
T = TypeVar("T")

_ALREADY: Final = "peer is already configured"  # of addpeer; the daemon has then tried it again at once
_ABSENT: Final = "peer is not configured"  # of removepeer


class _Answer(msgspec.Struct, frozen=True):
    """Part of what the daemon says. It is another program's format: unknown fields are passed over."""


class Self(_Answer, frozen=True):
    """Who the daemon is."""

    key: Hex
    address: Text
    subnet: Text
    build_version: Text = ""
    routing_entries: Count = 0


class Peer(_Answer, frozen=True):
    """A link, or a peer that is dialled. `remote` has no options; latency is in ns, error times are ages in ns."""

    remote: Text = ""
    up: bool = False
    inbound: bool = False
    key: Hex = ""
    port: Count = 0
    cost: Count = 0
    bytes_recvd: Count = 0
    bytes_sent: Count = 0
    rate_recvd: Count = 0  # bytes a second
    rate_sent: Count = 0
    uptime: float = 0.0  # s
    latency: Count = 0
    last_error: Text = ""
    last_error_time: Count = 0

    @property
    def public_key(self) -> bytes:
        """The key of the other end; empty while it is not known."""
        return bytes.fromhex(self.key)


class TreeEntry(_Answer, frozen=True):
    """A node of the spanning tree that this one knows, and its parent."""

    key: Hex
    parent: Hex
    address: Text = ""
    sequence: Count = 0


class PathEntry(_Answer, frozen=True):
    """A path to a node that is in use: the ports of the tree from its root."""

    key: Hex
    address: Text = ""
    path: tuple[Count, ...] | None = None
    sequence: Count = 0


class Session(_Answer, frozen=True):
    """A session with a node, encrypted from end to end."""

    key: Hex
    address: Text = ""
    bytes_recvd: Count = 0
    bytes_sent: Count = 0
    uptime: float = 0.0  # s

    @property
    def public_key(self) -> bytes:
        """The key of the other end."""
        return bytes.fromhex(self.key)


class _Peers(_Answer, frozen=True):
    peers: tuple[Peer, ...] = ()


class _Tree(_Answer, frozen=True):
    tree: tuple[TreeEntry, ...] = ()


class _Paths(_Answer, frozen=True):
    paths: tuple[PathEntry, ...] = ()


class _Sessions(_Answer, frozen=True):
    sessions: tuple[Session, ...] = ()


class _Command(_Answer, frozen=True):
    command: Text


class _Commands(_Answer, frozen=True):
    list: tuple[_Command, ...] = ()


class _Envelope(_Answer, frozen=True):
    status: str
    response: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""


class Admin:
    """The daemon behind one socket. Methods raise `yggdrasil.unavailable`, `yggdrasil.answer`, `yggdrasil.refused`."""

    def __init__(self, socket: Path, limits: Limits = LIMITS) -> None:
        self._socket = socket
        self._limits = limits

    async def self_(self) -> Self:
        """Its key and address."""
        return await self._ask("getself", Self)

    async def peers(self) -> tuple[Peer, ...]:
        """All links, and the peers that are dialled in vain."""
        return (await self._ask("getpeers", _Peers)).peers

    async def tree(self) -> tuple[TreeEntry, ...]:
        """What it knows of the spanning tree."""
        return (await self._ask("gettree", _Tree)).tree

    async def paths(self) -> tuple[PathEntry, ...]:
        """The paths in use."""
        return (await self._ask("getpaths", _Paths)).paths

    async def sessions(self) -> tuple[Session, ...]:
        """The sessions in use."""
        return (await self._ask("getsessions", _Sessions)).sessions

    async def commands(self) -> tuple[str, ...]:
        """What can be asked."""
        return tuple(entry.command for entry in (await self._ask("list", _Commands)).list)

    async def add_peer(self, uri: str) -> bool:
        """Dial a peer until it is removed. False if it was there: then it is tried again at once if it is down."""
        return await self._changed("addpeer", uri, unless=_ALREADY)

    async def remove_peer(self, uri: str) -> bool:
        """Stop dialling and part. False if it was not there. The options of the uri do not matter.

        Raises `yggdrasil.inbound` for a link that the other end opened: the daemon would crash.
        """
        remote = uri.partition("?")[0]
        if any(peer.inbound and peer.remote == remote for peer in await self.peers()):
            raise error("yggdrasil.inbound", remote=remote)
        return await self._changed("removepeer", uri, unless=_ABSENT)

    async def nudge(self, key: bytes) -> None:
        """Make the daemon send something to a node, without waiting for the answer.

        A link on which something was sent must answer within 3 s, or the daemon gives it up; one that is idle is never
        missed.
        """
        question = {"request": "debug_remotegetself", "arguments": {"key": key.hex()}, "keepalive": False}
        try:
            async with asyncio.timeout(self._limits.yggdrasil_answer_s):
                _, writer = await asyncio.open_unix_connection(self._socket)
                writer.write(msgspec.json.encode(question))
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError) as err:
            raise error("yggdrasil.unavailable", request="debug_remotegetself", reason=_said(err)) from err

    async def _changed(self, request: str, uri: str, unless: str) -> bool:
        try:
            await self._ask(request, _Answer, uri=uri)
        except X0tError as err:
            if err.key == "yggdrasil.refused" and err.detail["reason"] == unless:
                return False
            raise
        return True

    async def _ask(self, request: str, answer: type[T], **arguments: str) -> T:
        question = msgspec.json.encode({"request": request, "arguments": arguments, "keepalive": False})
        data = await self._exchange(request, question)
        try:
            envelope = msgspec.json.decode(data, type=_Envelope)
            if envelope.status != "success":
                raise error("yggdrasil.refused", request=request, reason=envelope.error)
            return msgspec.json.decode(envelope.response, type=answer)
        except msgspec.DecodeError as err:
            raise error("yggdrasil.answer", request=request, reason=err) from err

    async def _exchange(self, request: str, question: bytes) -> bytes:
        limit = self._limits.yggdrasil_answer_bytes
        try:
            async with asyncio.timeout(self._limits.yggdrasil_answer_s):
                reader, writer = await asyncio.open_unix_connection(self._socket, limit=limit)
                try:
                    writer.write(question)
                    answer = bytearray()
                    while part := await reader.read(65_536):
                        answer += part
                        if len(answer) > limit:
                            raise error("yggdrasil.answer", request=request, reason=f"it is longer than {limit} bytes")
                    return bytes(answer)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as err:
            raise error("yggdrasil.unavailable", request=request, reason=_said(err)) from err


def _said(err: BaseException) -> str:
    return str(err) or type(err).__name__
