"""What one daemon alone may use in a network namespace: each name is a table without rules that its socket owns.

Two daemons on one interface, or two of one mesh, would undo each other's tables and routes, so the second is refused.
A table with an owner (NFT_TABLE_F_OWNER, Linux 5.12) is what a lock should be here: it belongs to the network
namespace, whatever files its processes share; only who may change the network can make one; nobody else can take it
away, not even together with all other tables; and it ends with the process, however that ends.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from appliance.core.errors import error
from appliance.netstack.nft import wire
from appliance.netstack.nft.channel import Channel, LostError, RefusedError, Request, connect
from appliance.netstack.nft.skeleton import Kind

_OWNER: Final = 0x2  # NFT_TABLE_F_OWNER
_NAME, _FLAGS, _COMMENT = 1, 2, 6  # NFTA_TABLE_*
_EXCLUSIVE: Final = 0x200  # NLM_F_EXCL
_ANY_GENERATION: Final = 0
_HELD: Final = frozenset((errno.EPERM, errno.EEXIST))
_TRIES: Final = 3  # a holder may end between two questions


class Claim:
    """Names that are held until `release`. Making it blocks, and raises `firewall.held` if another holds one of them.

    Where nf_tables cannot be used, or knows no owners, nothing is held; without nf_tables no network comes up.
    """

    def __init__(self, names: Sequence[str], connect: Callable[[], socket.socket] = connect) -> None:
        self._channel: Channel | None = None
        channel = _opened(connect)
        if channel is None:
            return
        try:
            if _took(channel, names):
                self._channel = channel
        except LostError as err:
            raise error("firewall.unavailable", reason=err) from err
        finally:
            if self._channel is None:
                channel.close()

    def release(self) -> None:
        """Let others have the names. Harmless when repeated."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


def _opened(connect: Callable[[], socket.socket]) -> Channel | None:
    """None where we have no right to change the network, or the kernel no nf_tables."""
    try:
        opened = connect()
    except OSError:
        return None
    try:
        return Channel(opened)
    except OSError:
        opened.close()
        return None


def _took(channel: Channel, names: Sequence[str]) -> bool:
    """All of the names, or none."""
    for _ in range(_TRIES):
        try:
            channel.transact(_ANY_GENERATION, [_table(name) for name in names])
        except RefusedError as err:
            holders = _holders(channel, names) if err.code in _HELD else {}
            for name, holder in holders.items():
                raise error("firewall.held", holder=holder, name=name) from err
        else:
            return True
    return False


def _table(name: str) -> Request:
    """Its comment names the holder, in the form in which `nft` shows it: type, length, text."""
    holder = f"x0td (process {os.getpid()})".encode() + b"\0"
    comment = wire.attribute(_COMMENT, bytes((0, len(holder))) + holder)
    said = wire.text(_NAME, _called(name)) + wire.number(_FLAGS, _OWNER)
    return Request(Kind.TABLE, said + comment, wire.NLM_F_CREATE | _EXCLUSIVE)


def _holders(channel: Channel, names: Sequence[str]) -> Mapping[str, str]:
    """Who holds which of the names."""
    found = {}
    for name in names:
        try:
            (body,) = channel.ask(Request(Kind.TABLE + 1, wire.text(_NAME, _called(name))))
        except RefusedError:  # nobody
            continue
        found[name] = wire.string(wire.fields(body).get(_COMMENT, b"")[2:]) or "another program"
    return found


def _called(name: str) -> str:
    return f"x0t-holds-{name}"
