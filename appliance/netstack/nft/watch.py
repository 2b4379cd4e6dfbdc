"""Who else changes our table: the notices of nf_tables, read message by message (NFNLGRP_NFTABLES).

A transaction ends with the new generation and with the name of the process that made it. What we changed ourselves is
known by our ports, what the kernel did by port 0. This module opens no socket and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Final

from appliance.netstack.nft import wire
from appliance.netstack.nft.channel import SUBSYSTEM_TABLES
from appliance.netstack.nft.skeleton import Kind

GROUP: Final = 7  # NFNLGRP_NFTABLES
EVENT_BYTES: Final = 8 << 20  # of receive buffer: a foreign flush of 60,000 elements is told in about as many bytes
UNKNOWN: Final = "somebody unknown"

_KERNEL_PORT: Final = 0
_PROCESS_ID, _PROCESS_NAME = 2, 3
_NAME_OF_TABLE: Final = 1  # in all messages but the one of a generation


class Watch:
    """Follows the notices about one table."""

    def __init__(self, table: str, own_ports: Container[int]) -> None:
        self._table = table.encode() + b"\0"
        self._own = own_ports
        self._touched = False

    def read(self, datagram: bytes) -> Iterator[str]:
        """Who ended a transaction that touched our table. Raises ValueError for what is no netlink message."""
        for message in wire.messages(datagram):
            if message.port in self._own or message.port == _KERNEL_PORT or message.kind >> 8 != SUBSYSTEM_TABLES:
                continue
            said = wire.fields(message.body)
            if message.kind != Kind.GENERATION:
                is_ours = message.family == wire.FAMILY_INET and said.get(_NAME_OF_TABLE) == self._table
                self._touched = self._touched or is_ours
            elif self._touched:
                self._touched = False
                yield _who(said)


def _who(said: dict[int, bytes]) -> str:
    name = wire.string(said.get(_PROCESS_NAME, b""))
    if not name.isprintable() or not name:
        return UNKNOWN
    return f"{name} (process {int.from_bytes(said.get(_PROCESS_ID, b''), 'big')})"
