"""What of a filter is still right where a newer one cannot be made: nobody keeps a right that its place gave it.

A policy that has become too large for a node stays without effect there, and so would every eviction after it. So who
is no member any more, or holds other tags, or another address, has no rights until there is a new filter. Rules are not
looked at. Pure; the result permits nothing that the filter did not.
"""

from __future__ import annotations

import msgspec

from appliance.policy.directory import Directory, Member
from appliance.policy.filter import Address, ClassId, Filter, Interval

_NOBODY: ClassId = 0


def narrowed(held: Filter, then: Directory, now: Directory, own: bytes) -> Filter:
    """The filter of node `own`, made when `then` was who is who, for those who are today what they were."""
    peers = {
        address: number if _rights(then.by_address.get(address)) == _rights(member) else _NOBODY
        for address, number in held.peers.items()
        if (member := now.by_address.get(address)) is not None
    }
    if _rights(then.members.get(own)) != _rights(now.members.get(own)):
        return Filter(own=held.own, peers=dict.fromkeys(peers, _NOBODY))
    if then.subnets == now.subnets:
        return msgspec.structs.replace(held, peers=peers)
    nets = {net: number for net, number in held.peer_nets.items() if _gateway(net, then) == _gateway(net, now) != b""}
    return msgspec.structs.replace(
        held,
        peers=peers,
        peer_nets=nets,
        locals={
            near: number
            for near, number in held.locals.items()
            if near == (held.own, held.own) or _gateway(near, now) == own
        },
    )


def _rights(member: Member | None) -> tuple[bytes, bytes, frozenset[str]] | None:
    """What of a member its rights hang on."""
    return None if member is None else (member.node, member.address, member.tags)


def _gateway(net: Interval, directory: Directory) -> bytes:
    """The node that speaks for both ends of an interval; empty if there is no such one."""
    first, last = (_node(address, directory) for address in net)
    return first if first == last else b""


def _node(address: Address, directory: Directory) -> bytes:
    place = directory.place(address)
    return b"" if place is None or place.subject.host is None else place.node
