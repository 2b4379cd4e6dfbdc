"""What one node must enforce, as tables with constant-time lookup. Symbols and numbers only: no netlink, no names.

A packet that crosses the mesh interface belongs to a conversation, and is judged by the packet that opened it:

    peer    = peers[far address]          or peer_nets[the interval that holds it]
    local   = locals[the interval that holds the near address]
    service = services[protocol, destination port]
    allowed = (peer, local, service) in inbound   if the far end opened the conversation, else in outbound

Numbers are made from what they stand for, so compiling the same policy again changes nothing, and a small change of
policy or directory changes few entries.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import msgspec

from appliance.policy.model import RuleId

Address: TypeAlias = bytes  # 16 bytes
ClassId: TypeAlias = int  # 1 to 2**32 - 1; 0 is a member without rights
Interval: TypeAlias = tuple[Address, Address]  # both ends included; intervals of one table do not overlap


class ServiceRange(NamedTuple):
    """Protocols and destination ports, all ends included. Ranges of one table do not overlap.

    For a protocol without ports the port range is whole.
    """

    protocol_first: int
    protocol_last: int
    port_first: int
    port_last: int


class Key(NamedTuple):
    """Who (far end), where (near end), what."""

    peer: ClassId
    local: ClassId
    service: ClassId


class Grant(msgspec.Struct, frozen=True):
    """Why a key is allowed: the allow rules that say so, sorted; and the moment when the last of them expires."""

    rules: tuple[RuleId, ...]
    until_ms: int | None = None


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the kernel of one node must know."""

    own: Address
    peers: dict[Address, ClassId] = {}  # other members, all of them
    peer_nets: dict[Interval, ClassId] = {}  # hosts behind other gateways; intervals without rights may be missing
    locals: dict[Interval, ClassId] = {}  # the node itself as [own, own], and the hosts behind it
    services: dict[ServiceRange, ClassId] = {}
    inbound: dict[Key, Grant] = {}  # conversations that the far end opens
    outbound: dict[Key, Grant] = {}  # conversations that the near end opens
