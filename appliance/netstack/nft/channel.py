"""A netlink socket that asks the kernel and waits for its answer: dumps, single requests, nf_tables transactions.

It blocks, so it belongs to a thread of its own. It says three things apart, because the caller must do different
things: the kernel refused (nothing changed), the answer was lost (anything may be), a dump was cut by a change (ask
again). It never repeats a change by itself.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from appliance.netstack.nft import wire
from appliance.netstack.nft.turns import Pace, at_once

SUBSYSTEM_CONNTRACK: Final = 1
SUBSYSTEM_LOG: Final = 4
SUBSYSTEM_TABLES: Final = 10

ANSWER_S: Final = 10  # the kernel answers at once; a dump of a million entries takes 3 s

_NETLINK_NETFILTER: Final = 12
_TIMEVAL: Final = struct.Struct("@ll")
_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11
_BATCH_GENID: Final = 1
_DATAGRAM_BYTES: Final = 1 << 16
_ANSWER_BYTES: Final = 4 << 20  # of receive buffer: an answer for each message of the largest batch
_SPARE_BYTES: Final = 4096  # of send buffer beyond the message (the kernel asks for 32)


class Wire(Protocol):
    """What is needed of a socket; tests put a faulty one in its place."""

    def send(self, data: bytes, /) -> int:
        """Hand a datagram to the kernel."""
        ...

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Take a datagram."""
        ...

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None:
        """Set an option."""
        ...

    def getsockname(self) -> tuple[int, int]:
        """The port and the groups."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def connect() -> socket.socket:
    """A netfilter socket in the network namespace of the calling thread."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        made.bind((0, 0))
    except OSError:
        made.close()
        raise
    return made


def force_receive_buffer(wire_: Wire, size: int) -> None:
    """Let more wait than the system's default of 208 KiB; only what waits takes memory."""
    wire_.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)


def join_group(opened: socket.socket, group: int) -> None:
    """Receive the notices of a multicast group."""
    opened.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)


class RefusedError(Exception):
    """The kernel answered with an errno; nothing was changed."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code: Final = code
        self.reason: Final = reason


class LostError(Exception):
    """The answer did not arrive: whether the kernel did it is not known."""


class OvertakenError(Exception):
    """Somebody else changed the ruleset since the generation that the request was made for."""


class Request(NamedTuple):
    """A message without sequence number: type with subsystem, attributes, flags, family; resource is a log group."""

    kind: int
    body: bytes
    flags: int = 0
    family: int = wire.FAMILY_INET
    resource: int = 0

    def message(self, sequence: int, more_flags: int = 0) -> bytes:
        """The message as it is sent."""
        flags = wire.NLM_F_REQUEST | self.flags | more_flags
        return wire.message(self.kind, flags, sequence, wire.generic(self.family, self.resource) + self.body)


class Channel:
    """One socket. After a `LostError` it must be closed, because late answers may still arrive."""

    def __init__(self, opened: Wire) -> None:
        self._wire = opened
        self._sequence = 0
        self._send_bytes = 0
        opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        opened.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        force_receive_buffer(opened, _ANSWER_BYTES)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(ANSWER_S, 0))
        self.port: Final = opened.getsockname()[0]

    def close(self) -> None:
        """End the socket."""
        self._wire.close()

    def dump(self, request: Request, pace: Pace = at_once) -> list[bytes]:
        """The attributes of everything the kernel lists. Raises `OvertakenError` if it changed meanwhile."""
        sequence = self._next()
        self._send(request.message(sequence, wire.NLM_F_DUMP))
        found: list[bytes] = []
        overtaken = False
        for message in pace(self._answers(sequence)):
            overtaken |= bool(message.flags & wire.NLM_F_DUMP_INTR)
            if message.kind == wire.NLMSG_DONE:
                _check(int.from_bytes(message.payload[:4], sys.byteorder, signed=True))
                break
            if message.kind == wire.NLMSG_ERROR:
                _raise(wire.answer(message))
            found.append(message.body)
        if overtaken:
            raise OvertakenError
        return found

    def ask(self, request: Request) -> list[bytes]:
        """The attributes of the answers to one request, which end with an acknowledgement."""
        sequence = self._next()
        self._send(request.message(sequence, wire.NLM_F_ACK))
        found: list[bytes] = []
        for message in self._answers(sequence):
            if message.kind == wire.NLMSG_ERROR:
                _raise(wire.answer(message))
                break
            found.append(message.body)
        return found

    def each(self, requests: Sequence[Request]) -> list[wire.Answer]:
        """Send many independent requests as one datagram; their acknowledgements, in order."""
        first = self._sequence + 1
        self._send(b"".join(request.message(self._next(), wire.NLM_F_ACK) for request in requests))
        got = {one.sequence: one for one in self._waiting()}
        try:
            return [got[sequence] for sequence in range(first, first + len(requests))]
        except KeyError as err:
            raise LostError("an acknowledgement is missing") from err

    def transact(self, generation: int, requests: Sequence[Request]) -> None:
        """Do all of it or nothing, and only if the ruleset still has this generation.

        The kernel works while it takes the datagram, so when `send` returns all answers wait.
        """
        begin = self._next()
        edge = wire.generic(wire.FAMILY_UNSPEC, SUBSYSTEM_TABLES)
        parts = [wire.message(_BATCH_BEGIN, wire.NLM_F_REQUEST, begin, edge + wire.number(_BATCH_GENID, generation))]
        parts += [request.message(self._next()) for request in requests[:-1]]
        last = self._next()
        parts.append(requests[-1].message(last, wire.NLM_F_ACK))
        parts.append(wire.message(_BATCH_END, wire.NLM_F_REQUEST, self._next(), edge))
        self._send(b"".join(parts))
        answers = [one for one in self._waiting() if one.sequence >= begin]
        for one in answers:
            if one.errno == errno.ERESTART:
                raise OvertakenError
            _raise(one)
        if not any(one.sequence == last for one in answers):
            raise LostError("the kernel did not answer")

    def _next(self) -> int:
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        return self._sequence

    def _send(self, data: bytes) -> None:
        if len(data) + _SPARE_BYTES > self._send_bytes:
            self._send_bytes = len(data) + _SPARE_BYTES
            self._wire.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, self._send_bytes)
        try:
            self._wire.send(data)
        except OSError as err:
            raise LostError(err.strerror or str(err)) from err

    def _receive(self, flags: int = 0) -> list[wire.Message]:
        try:
            return list(wire.messages(self._wire.recv(_DATAGRAM_BYTES, flags)))
        except BlockingIOError:
            return []
        except (OSError, ValueError) as err:
            raise LostError(str(err)) from err

    def _answers(self, sequence: int) -> Iterator[wire.Message]:
        """The messages that answer one request, for as long as the caller takes them."""
        while got := self._receive():
            for message in got:
                if message.kind == wire.NLMSG_OVERRUN:
                    raise LostError("the kernel lost answers")
                if message.sequence == sequence:
                    yield message
        raise LostError("the kernel did not answer")

    def _waiting(self) -> list[wire.Answer]:
        """The acknowledgements that have arrived."""
        found: list[wire.Answer] = []
        while got := self._receive(socket.MSG_DONTWAIT):
            found += [wire.answer(one) for one in got if one.kind == wire.NLMSG_ERROR]
        return found


def generation_of(body: bytes) -> int:
    """The generation in an NFT_MSG_NEWGEN."""
    return int(struct.unpack(">I", wire.fields(body)[1])[0])


def _check(code: int) -> None:
    if code < 0:
        raise RefusedError(-code, errno.errorcode.get(-code, str(-code)))


def _raise(answer: wire.Answer) -> None:
    if answer.errno:
        raise RefusedError(answer.errno, answer.text)
