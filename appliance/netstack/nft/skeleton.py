"""The table of a mesh without its elements: sets, chains and rules. They depend on the mesh alone, never on its policy.

Interfaces are matched by name, so that the table denies before the interface exists. What may pass is accepted as early
as possible; why a packet may not is found out afterwards. Every packet of a conversation is judged by the packet that
opened it, as connection tracking remembers it; so a change of policy acts on conversations that run. What has no
conversation, or is not IPv6, matches nothing and ends in a drop. Packets leave in a memory what was found out about
their conversation; that saves lookups and decides nothing, for whether it is granted is asked each time. Other
interfaces are touched only where they carry addresses of members.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Final, TypeAlias

import msgspec

from appliance.core.limits import LIMITS, Limits
from appliance.netstack.nft import expressions as word
from appliance.netstack.nft import wire
from appliance.netstack.nft.channel import SUBSYSTEM_TABLES, Request
from appliance.netstack.nft.raw import GRANTS
from appliance.policy.enforcement import Stage
from appliance.policy.filter import Address

PRIORITY: Final = -10  # just before `filter`, and after conntrack (-200) and destination NAT (-100)
SNAP_BYTES: Final = 96  # of a dropped packet: the IPv6 header, and the ports behind it


class MeshTable(msgspec.Struct, frozen=True, kw_only=True):
    """Where a firewall stands: one nf_tables table of family inet."""

    name: str  # x0t-<8 letters>
    interface: str  # of the mesh; need not exist
    own: Address  # of this node on the mesh
    log_group: int  # NFLOG, 16 bits, of this mesh alone


class Kind(IntEnum):
    """Messages of nf_tables; the one that asks is one more, the one that deletes two."""

    TABLE = SUBSYSTEM_TABLES << 8 | 0
    CHAIN = SUBSYSTEM_TABLES << 8 | 3
    RULE = SUBSYSTEM_TABLES << 8 | 6
    SET = SUBSYSTEM_TABLES << 8 | 9
    ELEMENTS = SUBSYSTEM_TABLES << 8 | 12
    GENERATION = SUBSYSTEM_TABLES << 8 | 15


# What of an object is ours to say. Other attributes are handles, counts, and whatever later kernels tell.
SAID: Final[Mapping[Kind, frozenset[int]]] = {
    Kind.TABLE: frozenset({1, 2}),  # name, flags
    Kind.CHAIN: frozenset({1, 3, 4, 5, 7, 10}),  # table, name, hook, policy, type, flags
    Kind.RULE: frozenset({1, 2, 4, 7}),  # table, chain, expressions, comment
    Kind.SET: frozenset({1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 17, 18}),  # not policy, id, collection of garbage
}

Chains: TypeAlias = dict[str, dict[str, bytes]]  # chain -> comment -> words of the rule, in order
Layout: TypeAlias = dict[str, bytes]  # what an object is, such as `chain input` or `rule input 2` -> its attributes

_INTERVAL, _MAP, _TIMEOUT, _BY_PACKETS, _CONCAT = 0x4, 0x8, 0x10, 0x20, 0x80
_BASE_CHAIN: Final = 1
_ACCEPT: Final = 1
# Types as `nft` knows them, so that it lists our sets in its own words.
_IPV6_ADDR, _INET_PROTO, _INET_SERVICE, _MARK = 8, 12, 13, 19
_TYPE_BITS: Final = 6
_MAP_ORDER: Final = struct.pack(
    "=BBIBBI", 0, 4, 2, 1, 4, 1
)  # for `nft`: keys big-endian, values as the machine has them
_HOOKS: Final = {"input": 1, "forward": 2, "output": 3}
_NEIGHBOURS: Final = ("fe80::/10", "ff00::/8")
_FAR_ENDS: Final = {"member": "peers", "host": "peer_nets"}
MEMORIES: Final = tuple(f"known_{way}" for way in GRANTS)
_REMEMBERING: Final = (  # chains that use the memories, and hold little else
    "from_mesh",
    "to_mesh",
    *(f"learn_{way}_{who}" for way in GRANTS for who in _FAR_ENDS),
)


def skeleton(table: MeshTable, limits: Limits = LIMITS) -> Layout:
    """All objects of the table, in an order in which they can be made."""
    layout: Layout = {"table": wire.text(1, table.name) + wire.number(2, 0)}
    for name, attributes in _sets(limits).items():
        layout[f"set {name}"] = wire.text(1, table.name) + wire.text(2, name) + attributes
    rules = _rules(table, limits)
    for chain in rules:
        layout[f"chain {chain}"] = wire.text(1, table.name) + wire.text(3, chain) + _hook(chain)
    for chain, written in rules.items():
        for place, (comment, words) in enumerate(written.items()):
            rule = wire.text(2, chain) + wire.nest(4, words) + wire.attribute(7, _comment(comment))
            layout[f"rule {chain} {place}"] = wire.text(1, table.name) + rule
    return layout


def kind_of(label: str) -> Kind:
    """The kind of an object of a layout."""
    return Kind[label.split(" ", 1)[0].upper()]


def making(layout: Layout) -> Iterator[Request]:
    """The messages that make the objects."""
    for number, (label, attributes) in enumerate(layout.items()):
        kind = kind_of(label)
        mark = (
            wire.number(10, number) if kind is Kind.SET else b""
        )  # NFTA_SET_ID must be there, to name sets in a batch
        flags = wire.NLM_F_CREATE | (wire.NLM_F_APPEND if kind is Kind.RULE else 0)
        yield Request(kind, attributes + mark, flags)


def replacing(table: MeshTable, found: Layout, wanted: Layout) -> Iterator[Request]:
    """The messages that turn what was found into what is wanted, all sets empty.

    A base chain that is right stays where it is and gets new rules. A new one in its place would stand before it in
    the hook, and at the moment of the change a packet could pass the new one empty and then the old one emptied.
    """
    name = wire.text(1, table.name)
    kept = {
        label for label in found if label in wanted and _is_base(label) and wire.agrees(wanted[label], found[label])
    }
    if found:
        yield Request(Kind.RULE + 2, name)
    for label in found:
        what, _, called = label.partition(" ")
        if what == "set":
            yield Request(Kind.SET + 2, name + wire.text(2, called))
        elif what == "chain" and label not in kept:
            yield Request(Kind.CHAIN + 2, name + wire.text(3, called))
    yield from making({label: attributes for label, attributes in wanted.items() if label not in kept})


def forgetting(table: MeshTable, wanted: Layout) -> Iterator[Request]:
    """The messages that put empty memories into the place of those that packets have filled.

    To empty them would not do: a packet judged by what was before may write while the transaction is being prepared.
    With new memories for new rules, what it writes goes with the old ones.
    """
    name = wire.text(1, table.name)
    for chain in _REMEMBERING:
        yield Request(Kind.RULE + 2, name + wire.text(2, chain))
    for memory in MEMORIES:
        yield Request(Kind.SET + 2, name + wire.text(2, memory))
    uses = {*(f"set {memory}" for memory in MEMORIES), *(f"rule {chain}" for chain in _REMEMBERING)}
    yield from making({label: said for label, said in wanted.items() if " ".join(label.split()[:2]) in uses})


def _is_base(label: str) -> bool:
    what, _, called = label.partition(" ")
    return what == "chain" and called in _HOOKS


def _hook(chain: str) -> bytes:
    if chain not in _HOOKS:
        return b""
    place = wire.number(1, _HOOKS[chain]) + wire.attribute(2, PRIORITY.to_bytes(4, "big", signed=True))
    return wire.nest(4, place) + wire.number(5, _ACCEPT) + wire.text(7, "filter") + wire.number(10, _BASE_CHAIN)


def _comment(text: str) -> bytes:
    """A comment as `nft` shows it: type, length, text."""
    said = text.encode() + b"\0"
    return bytes([0, len(said)]) + said


def _sets(limits: Limits) -> dict[str, bytes]:
    def concatenated(*types: int) -> int:
        joined = 0
        for one in types:
            joined = joined << _TYPE_BITS | one
        return joined

    def made(flags: int, key_type: int, key_bytes: int, *more: bytes) -> bytes:
        return wire.number(3, flags) + wire.number(4, key_type) + wire.number(5, key_bytes) + b"".join(more)

    def classes(flags: int, key_type: int, key_bytes: int, *more: bytes) -> bytes:
        value = wire.number(6, _MARK), wire.number(7, 4), wire.attribute(13, _MAP_ORDER)
        return made(_MAP | flags, key_type, key_bytes, *value, *more)

    service = wire.nest(9, wire.nest(2, *(wire.nest(1, wire.number(1, size)) for size in (1, 2))))
    key_type = concatenated(_MARK, _MARK, _MARK, _MARK)
    grants = made(_TIMEOUT, key_type, 16, wire.nest(17, word.counter()))
    opening = concatenated(_IPV6_ADDR, _IPV6_ADDR, _INET_PROTO, _INET_SERVICE)
    key = wire.number(6, key_type), wire.number(7, 16), wire.attribute(13, _MAP_ORDER)
    bounds = wire.nest(9, wire.number(1, limits.firewall_memory)), wire.long(11, limits.firewall_memory_ms)
    memory = made(_MAP | _TIMEOUT | _BY_PACKETS, opening, 40, *key, *bounds)
    return {
        "headers": made(0, _INET_PROTO, 1),
        "peers": classes(0, _IPV6_ADDR, 16),
        "peer_nets": classes(_INTERVAL, _IPV6_ADDR, 16),
        "locals": classes(_INTERVAL, _IPV6_ADDR, 16),
        "services": classes(_INTERVAL | _CONCAT, concatenated(_INET_PROTO, _INET_SERVICE), 8, service),
        "inbound": grants,
        "outbound": grants,
        **dict.fromkeys(MEMORIES, memory),
    }


def _rules(table: MeshTable, limits: Limits) -> Chains:
    return _hooked(table) | _judging() | _explaining(table, limits)


def _hooked(table: MeshTable) -> Chains:
    """Which packets are ours: what crosses the mesh interface, and members' addresses elsewhere."""
    arrives, leaves = word.arrives(table.interface), word.leaves(table.interface)
    wrong_place = word.goto("drop_source")
    from_member = word.load_source() + word.look_up("peers", word.PEER) + wrong_place
    to_member = word.load_target() + word.look_up("peers", word.PEER) + wrong_place
    not_ours = word.not_ipv6() + word.accept()
    own_talk = {"the kernel's own talk at an interface": leaves + word.target_in("ff00::/8") + word.drop()}
    return {
        "input": {
            "from the mesh": arrives + word.goto("from_mesh"),
            "from this node": word.arrives("lo") + word.accept(),
            "not ours": not_ours,
            "to our mesh address by another interface": word.target_is(table.own) + wrong_place,
            "from a member by another interface": from_member,
        },
        "forward": {
            "from the mesh to the mesh": arrives + leaves + word.goto("drop_hairpin"),
            "from the mesh": arrives + word.goto("from_mesh"),
            "to the mesh": leaves + word.goto("forward_to_mesh"),
            "not ours": not_ours,
            "from a member by another interface": from_member,
            "to a member by another interface": to_member,
        },
        "output": {
            "to the mesh": leaves + word.goto("to_mesh"),
            "to this node": word.leaves("lo") + word.accept(),
            "not ours": not_ours,
            "to a member by another interface": to_member,
        },
        "forward_to_mesh": {
            "the mesh carries IPv6 only": word.is_ipv4() + word.goto("drop_ipv4"),
            "a host with our address": word.source_is(table.own) + wrong_place,
            "a host that is not where it came from": word.has_no_way_back() + wrong_place,
            "judge": word.goto("to_mesh"),
        },
        "unfit_header": {**own_talk, "any other": word.goto("drop_header")},
        "neighbours": {
            **own_talk,
            **{f"from {prefix}": word.source_in(prefix) + wrong_place for prefix in _NEIGHBOURS},
            **{f"to {prefix}": word.target_in(prefix) + wrong_place for prefix in _NEIGHBOURS},
        },
    }


def _judging() -> Chains:
    """Whether a packet that crosses the mesh interface may pass."""
    unfit = {
        "the mesh carries IPv6 only": word.is_ipv4() + word.goto("drop_ipv4"),
        "an extension header": word.load_next_header() + word.is_in("headers") + word.goto("unfit_header"),
    }
    untracked = {"no conversation": word.goto("untracked")}
    return {
        "from_mesh": {
            "known, opened there": word.goes(word.ORIGINAL) + _recalled("inbound"),
            "known, opened here": word.goes(word.REPLY) + _recalled("outbound"),
            "judge": word.goto("judge_from_mesh"),
        },
        "judge_from_mesh": {
            **unfit,
            "ICMPv6": word.is_icmpv6() + word.jump("icmpv6_from_mesh"),
            "of a conversation from there": word.goes(word.ORIGINAL) + word.goto("far_opened"),
            "of a conversation from here": word.goes(word.REPLY) + word.goto("near_opened"),
            **untracked,
        },
        "to_mesh": {
            "known, opened here": word.goes(word.ORIGINAL) + _recalled("outbound"),
            "known, opened there": word.goes(word.REPLY) + _recalled("inbound"),
            "judge": word.goto("judge_to_mesh"),
        },
        "judge_to_mesh": {
            **unfit,
            "ICMPv6": word.is_icmpv6() + word.jump("icmpv6_to_mesh"),
            "of a conversation from here": word.goes(word.ORIGINAL) + word.goto("near_opened"),
            "of a conversation from there": word.goes(word.REPLY) + word.goto("far_opened"),
            **untracked,
        },
        "icmpv6_from_mesh": _icmpv6({"a member": ("peers", word.PEER), "a host": ("peer_nets", word.PEER)}),
        "icmpv6_to_mesh": _icmpv6({"this node or a host behind it": ("locals", word.LOCAL)}),
        "far_opened": _granted("inbound", by_far_end=True),
        "near_opened": _granted("outbound", by_far_end=False),
        **{f"learn_{way}_{who}": _learned(way, peers) for way in GRANTS for who, peers in _FAR_ENDS.items()},
        "untracked": {"why": word.jump("neighbours"), "no conversation": word.goto("drop_state")},
    }


def _icmpv6(senders: Mapping[str, tuple[str, int]]) -> dict[str, bytes]:
    """Only an echo request opens a conversation; an error about one comes from somebody of the mesh."""
    return {
        "not opened by an echo request": word.opened_by_other_icmpv6_than(word.ECHO_REQUEST) + word.goto("drop_state"),
        "no error": word.state_lacks(word.RELATED) + word.leave(),
        **{
            f"an error from {who}": word.load_source() + word.look_up(name, register) + word.leave()
            for who, (name, register) in senders.items()
        },
        "an error from a stranger": word.goto("drop_source"),
    }


def _granted(grants: str, *, by_far_end: bool) -> dict[str, bytes]:
    """Whether it is granted. A member is judged as a member, even if its address lies in a subnet as well."""
    member, host = (
        _key(peers, by_far_end=by_far_end) + word.is_granted(grants) + word.goto(f"learn_{grants}_{who}")
        for who, peers in _FAR_ENDS.items()
    )
    denied = word.goto(f"denied_{grants}")
    return {
        "member, near end and service": member,
        "member without this right": word.begin_key("peers", by_far_end=by_far_end) + denied,
        "host, near end and service": host,
        "nobody": denied,
    }


def _key(peers: str, *, by_far_end: bool) -> bytes:
    """Find who, where and what."""
    near_end = word.add_local("locals", by_far_end=by_far_end)
    return word.begin_key(peers, by_far_end=by_far_end) + near_end + word.add_service("services")


def _recalled(grants: str) -> bytes:
    """Accept what is granted to a key that is known: the memory stands for the maps, never for the grant."""
    return word.recall(f"known_{grants}") + word.is_granted(grants) + word.accept()


def _learned(grants: str, peers: str) -> dict[str, bytes]:
    """Accept what was found to be granted, and remember its key. For each new rule the kernel walks its maps."""
    key = _key(peers, by_far_end=grants == "inbound") + word.remember(f"known_{grants}")
    return {"remember the key": word.not_icmpv6() + key + word.accept(), "ICMPv6, or no room": word.accept()}


def _explaining(table: MeshTable, limits: Limits) -> Chains:
    """Ends of all packets that may not pass; each shows some of them with the reason."""

    def report(stage: Stage) -> bytes:
        return word.report(table.log_group, stage.value, limits.firewall_drops_per_s, SNAP_BYTES)

    ends = {f"drop_{stage.value}": {"show some": report(stage), "drop all": word.drop()} for stage in Stage}
    return ends | {
        f"denied_{way}": {"why": word.jump("neighbours"), "no rule": word.goto(f"drop_{way}")}
        for way in ("inbound", "outbound")
    }
