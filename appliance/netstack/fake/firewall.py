"""A firewall in memory: holds a filter, judges packets that are described to it, and fails when it is told to.

It passes the contract suite of the real one. It has no table, so nothing survives it but what `FakeTable` keeps, which
stands for the kernel and may be given to the next firewall, as after a restart of the daemon.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping, Sequence

import msgspec

from appliance.core.errors import error
from appliance.core.limits import LIMITS, Limits
from appliance.netstack.nft.conntrack import Conversation
from appliance.netstack.nft.difference import changes
from appliance.netstack.nft.firewall import wall_clock_ms
from appliance.netstack.nft.raw import GRANTS, grant_key
from appliance.netstack.nft.skeleton import MeshTable
from appliance.netstack.nft.verdict import Lookup, Packet, Way
from appliance.policy.enforcement import Applied, Count, Difference, Drop, Stage
from appliance.policy.filter import Address, Filter, Key

Ends = tuple[Address, Address]


class FakeTable(msgspec.Struct):
    """What would be in the kernel: the filter, traffic by grant, and conversations by opener, target and service."""

    held: Filter | None = None
    counts: Counter[tuple[str, Key]] = msgspec.field(default_factory=Counter)
    sizes: Counter[tuple[str, Key]] = msgspec.field(default_factory=Counter)
    conversations: dict[tuple[Ends, int, int], int] = msgspec.field(default_factory=dict)  # -> packets


class FakeFirewall:
    """Implements `Firewall`. `refuse`, `linger` and `disturb` make trouble; `carry` sends a packet through it."""

    def __init__(self, table: MeshTable, limits: Limits = LIMITS, kernel: FakeTable | None = None) -> None:
        self.kernel = FakeTable() if kernel is None else kernel
        self.now_ms = wall_clock_ms
        self._table = table
        self._limits = limits
        self._in_force: Filter | None = None
        self._drops: deque[Drop] = deque(maxlen=limits.firewall_drops)
        self._refusals = 0
        self._lingerings = 0
        self._due: list[Lookup] = []  # filters whose conversations must be ended yet
        self._others: asyncio.Queue[str] = asyncio.Queue(limits.firewall_attempts)

    # ---- trouble

    def refuse(self, times: int = 1) -> None:
        """Refuse the next changes."""
        self._refusals = times

    def linger(self, times: int = 1) -> None:
        """Be unable to end conversations at the next attempts."""
        self._lingerings = times

    def disturb(self, who: str = "nft (process 1)") -> None:
        """Let somebody empty the table."""
        self.kernel.held = None
        self._others.put_nowait(who)

    def carry(self, packet: Packet, size_bytes: int = 0) -> Stage | None:
        """Judge a packet, and remember what comes of it: traffic and conversation, or a drop. None lets it pass."""
        held = self.kernel.held
        if held is None:  # no table: the interface is not up without one, but other traffic is
            return None
        lookup, now_ms = Lookup(held), self.now_ms()
        stage = lookup.judge(packet, now_ms)
        if stage is not None:
            self._drops.append(_drop(packet, stage, now_ms, size_bytes))
        elif packet.way in {Way.FROM_MESH, Way.TO_MESH, Way.FORWARD_TO_MESH}:
            self._count(lookup, packet, size_bytes)
        return stage

    # ---- the contract

    async def prepare(self) -> None:
        """See `Firewall`."""
        if self.kernel.held is None:
            self.kernel.held = self._nothing()
        self._in_force = self.kernel.held

    async def apply(self, wanted: Filter) -> Applied:
        """See `Firewall`."""
        if wanted.own != self._table.own:
            raise ValueError("the filter is of another node")
        if self._refusals:
            self._refusals -= 1
            raise error("firewall.refused", table=self._table.name, reason="the test says so")
        rebuilt, before = self.kernel.held is None, self.kernel.held or self._nothing()
        needed = changes(before, wanted, self.now_ms())
        self.kernel.held = self._in_force = wanted
        gone = {(change.name, grant_key(raw)) for change in needed for raw in change.removed if change.name in GRANTS}
        for key in gone:
            del self.kernel.counts[key], self.kernel.sizes[key]
        if rebuilt or before != wanted:
            self._due.append(Lookup(before))
        done = Applied(
            sum(len(change.added) for change in needed), sum(len(change.removed) for change in needed), rebuilt
        )
        if self._due and self._lingerings:
            self._lingerings -= 1
            return msgspec.structs.replace(done, owed="the test says so")
        return msgspec.structs.replace(done, ended=self._end_conversations(Lookup(wanted)))

    async def verify(self) -> Sequence[Difference]:
        """See `Firewall`."""
        if self.kernel.held == self._in_force:
            return []
        return [Difference("table", "there", "nothing")]

    async def counters(self) -> Mapping[tuple[str, Key], Count]:
        """See `Firewall`."""
        held = self.kernel.held or self._nothing()
        return {
            (name, key): Count(self.kernel.counts[name, key], self.kernel.sizes[name, key])
            for name, grants in (("inbound", held.inbound), ("outbound", held.outbound))
            for key in grants
        }

    async def flows(self) -> Sequence[Conversation]:
        """As of the real one."""
        lookup = Lookup(self.kernel.held or self._nothing())
        found = [
            Conversation(
                source=ends[0],
                target=ends[1],
                protocol=protocol,
                port=port,
                source_port=0,
                inbound=lookup.peer(ends[0]) is not None,
                state="replied",
                packets=packets,
                bytes=0,
            )
            for (ends, protocol, port), packets in self.kernel.conversations.items()
        ]
        return found[: self._limits.firewall_flows]

    async def disturbed(self) -> str:
        """See `Firewall`."""
        return await self._others.get()

    def drops(self) -> Sequence[Drop]:
        """See `Firewall`."""
        return tuple(self._drops)

    async def run(self) -> None:
        """Nothing is read, for ever."""
        await asyncio.Event().wait()

    async def remove(self) -> None:
        """See `Firewall`."""
        self.kernel.held = self._in_force = None

    async def close(self) -> None:
        """Nothing to end."""

    def _nothing(self) -> Filter:
        return Filter(own=self._table.own)

    def _count(self, lookup: Lookup, packet: Packet, size_bytes: int) -> None:
        by_far_end = (packet.way is Way.FROM_MESH) != packet.reply
        ends = (packet.target, packet.source) if packet.reply else (packet.source, packet.target)
        ends = packet.error_about or ends
        find = lookup.inbound if by_far_end else lookup.outbound
        key = find(*ends, packet.protocol, packet.port)
        assert key is not None
        name = "inbound" if by_far_end else "outbound"
        self.kernel.counts[name, key] += 1
        self.kernel.sizes[name, key] += size_bytes
        conversation = ends, packet.protocol, packet.port
        self.kernel.conversations[conversation] = self.kernel.conversations.get(conversation, 0) + 1

    def _end_conversations(self, held: Lookup) -> int:
        doomed = [
            one
            for one in self.kernel.conversations
            if any(each.concerns(*one[0]) for each in (held, *self._due)) and not held.allows(*one, self.now_ms())
        ]
        for one in doomed:
            del self.kernel.conversations[one]
        self._due.clear()
        return len(doomed)


def _drop(packet: Packet, stage: Stage, now_ms: int, size_bytes: int) -> Drop:
    return Drop(
        at_ms=now_ms,
        stage=stage,
        source=packet.source,
        target=packet.target,
        protocol=packet.protocol,
        port=packet.port,
        size_bytes=size_bytes,
    )
