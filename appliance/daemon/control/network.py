"""Routes of the mesh network: what is, what flows, what was dropped, and tools for a bad day."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from aiohttp import web

from appliance.core import network_records as records
from appliance.core.errors import X0tError, error
from appliance.core.ids import NodeId
from appliance.core.prefix import address_text
from appliance.core.yggdrasil import node_address, node_subnet
from appliance.daemon.checks import Snapshot, checks
from appliance.daemon.control.reply import Report, read, reply, stream_work, streaming
from appliance.daemon.naming import address_name, find_address, find_service, key_owner
from appliance.daemon.network import Network
from appliance.daemon.node import Node, moment
from appliance.daemon.witness import dropped_at
from appliance.netstack.capture import Bounds, capture
from appliance.netstack.finding import Answer, Observation, Order, Seen, conclude
from appliance.netstack.probe import observe
from appliance.netstack.yggdrasil.records import PeerState
from appliance.policy.directory import Directory
from appliance.policy.enforcement import Difference, Drop, Stage
from appliance.policy.evaluate import Flow
from appliance.policy.explain import explain
from appliance.policy.filter_check import Direction, permits
from appliance.policy.wording import flow_service

REASONS = {
    Stage.IPV4: "the mesh carries IPv6 only",
    Stage.HEADER: "a packet with extension headers is not let through",
    Stage.STATE: "it belongs to no conversation that is known here",
    Stage.SOURCE: "its source is not where it came from",
    Stage.HAIRPIN: "nothing passes a node from the mesh to the mesh",
}


class NetworkRoutes:
    """/v1/network."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def _network(self) -> Network:
        """Raises `network.off` where the settings ask for none."""
        network = self._node.mesh.network
        if network is None:
            raise error("network.off")
        return network

    @property
    def _directory(self) -> Directory:
        return self._network.roster.directory

    async def show(self, _request: web.Request) -> web.StreamResponse:
        """What is wanted, what is, and what blocks it."""
        network = self._network
        state, ygg, key = network.state, network.kernel.yggdrasil.state, network.kernel.key.public
        enforced = moment(state.enforced_at_ms) if state.enforced_at_ms else ""
        return reply(
            records.NetworkState(
                interface=network.kernel.yggdrasil.place.interface,
                address=address_text(node_address(key)),
                subnet=str(node_subnet(key)),
                public_key=key.hex(),
                phase=ygg.phase.value,
                since=moment(int(ygg.since_s * 1000)) if ygg.since_s else "",
                blocked="; ".join(filter(None, (state.blocked, ygg.reason, ygg.note))),
                firewall=_standing(state.blocked, enforced),
                members=state.members,
                rules=state.rules,
                entries=state.entries,
                drops=len(network.kernel.firewall.drops()),
                repairs=state.repairs,
                disturbed=f"{state.disturbed_by} at {moment(state.disturbed_at_ms)}" if state.disturbed_by else "",
            )
        )

    async def peers(self, _request: web.Request) -> web.StreamResponse:
        """Yggdrasil's links."""
        known = self._network.roster.neighbours
        owners = {each.key: (each.node, each.name) for each in known}
        dialled = {uri: each.key for each in known for uri in each.uris}  # a link that is not up yet has no key
        peers = self._network.kernel.yggdrasil.state.peers
        return reply([_peer(peer, key_owner(peer.key or dialled.get(peer.uri, b""), owners)) for peer in peers])

    async def routes(self, _request: web.Request) -> web.StreamResponse:
        """The other members, and how they are reached."""
        network = self._network
        admin = network.kernel.yggdrasil.admin
        paths = {path.key: path.path for path in await admin.paths()}
        sessions = {session.key for session in await admin.sessions()}
        subnets: dict[bytes, list[str]] = {}
        for subnet in self._directory.subnets:
            subnets.setdefault(subnet.gateway, []).append(str(subnet.prefix))
        return reply(
            [
                records.MeshRoute(
                    node=str(NodeId(each.node)),
                    name=each.name,
                    address=address_text(each.address),
                    subnets=tuple(subnets.get(each.node, ())),
                    path=" ".join(map(str, paths.get(each.key.hex()) or ())),
                    session=each.key.hex() in sessions,
                )
                for each in network.roster.neighbours
                if each.node != self._node.key.id.raw
            ]
        )

    async def flows(self, _request: web.Request) -> web.StreamResponse:
        """Conversations, the busiest first."""
        found = await self._network.kernel.firewall.flows()
        return reply(
            [
                records.Conversation(
                    source=address_name(each.source, self._directory),
                    target=address_name(each.target, self._directory),
                    service=flow_service(each.protocol, each.port),
                    state=each.state,
                    packets=each.packets,
                    bytes=each.bytes,
                )
                for each in sorted(found, key=lambda each: -each.bytes)
            ]
        )

    async def drops(self, _request: web.Request) -> web.StreamResponse:
        """Sampled drops, the latest first."""
        return reply([self._drop(drop) for drop in reversed(self._network.kernel.firewall.drops())])

    async def checks(self, _request: web.Request) -> web.StreamResponse:
        """Every check of the network."""
        network, mesh = self._network, self._node.mesh
        view = await mesh.queries.network()
        own = self._node.key.id.raw
        seen = Snapshot(
            state=network.state,
            yggdrasil=network.kernel.yggdrasil.state,
            course=await mesh.policy.current(),
            differences=await self._differences(),
            is_member=own in self._directory.members,
            has_secret=view.secret is not None,
            others=len(self._directory.members.keys() - {own}),
        )
        return reply(checks(seen))

    async def probe(self, request: web.Request) -> web.StreamResponse:
        """Send one thing to another node, and conclude from what comes back where it ended."""
        ask = await read(request, records.ProbeAsk)
        protocol, port = find_service(ask.service)
        order = Order(
            source=self._network.kernel.yggdrasil.state.address,
            target=find_address(ask.target, self._directory),
            protocol=protocol,
            port=port,
            size_bytes=ask.size_bytes,
            timeout_s=ask.timeout_s,
            target_name=ask.target,
        )
        begun_ms = self._node.mesh.replica.now_ms()
        finding = conclude(await self._observation(order, await observe(order), begun_ms))
        return reply(
            records.Probed(
                reached=finding.reached,
                died_at=finding.died_at.value if finding.died_at else "",
                round_trip_ms=finding.round_trip_ms,
                sentence=finding.sentence,
                hint=finding.hint,
            )
        )

    @streaming
    async def capture(self, request: web.Request) -> web.StreamResponse:
        """Write a capture, with progress in seconds."""
        ask = await read(request, records.CaptureAsk)
        interface = self._network.kernel.yggdrasil.place.interface

        async def work(report: Report) -> records.Captured:
            report(f"capturing on {interface}", 0, 0)
            bounds = Bounds(max_bytes=ask.max_bytes, max_s=ask.max_s)
            done = await capture(interface, Path(ask.path), bounds)
            fields = msgspec.structs.asdict(done)
            return records.Captured(path=ask.path, **(fields | {"ended": done.ended.value}))

        return await stream_work(request, work)

    async def _differences(self) -> Sequence[Difference]:
        """Where the kernel is not as it was left; that it cannot be read is a finding too."""
        if self._network.enforced is None:
            return ()
        try:
            return await self._network.kernel.firewall.verify()
        except X0tError as err:
            return (Difference("table", "readable", str(err)),)

    def _drop(self, drop: Drop) -> records.DropLine:
        flow = Flow(source=drop.source, target=drop.target, protocol=drop.protocol, port=drop.port)
        found = explain(self._network.policy, self._directory, flow, drop.at_ms)
        return records.DropLine(
            time=moment(drop.at_ms),
            source=address_name(drop.source, self._directory),
            target=address_name(drop.target, self._directory),
            service=flow_service(drop.protocol, drop.port),
            stage=drop.stage.value,
            reason=REASONS.get(drop.stage) or (f"by now {found.sentence}" if found.verdict.allowed else found.sentence),
        )

    async def _observation(self, order: Order, seen: Seen, begun_ms: int) -> Observation:
        """What this node knows, and what the receiver's says where silence leaves the question open."""
        network, now_ms = self._network, self._node.mesh.replica.now_ms()
        flow = Flow(source=order.source, target=order.target, protocol=order.protocol, port=order.port)
        enforced = network.enforced
        allowed = enforced is not None and permits(enforced, Direction.OUTBOUND, flow, now_ms)
        receiver = None
        if seen.answer is Answer.SILENCE and allowed:
            receiver = await self._node.mesh.ask_witness(flow, now_ms - begun_ms)
        dropped = dropped_at(network, flow, begun_ms)
        return Observation(order=order, seen=seen, allowed=allowed, dropped=dropped, receiver=receiver)


def _standing(blocked: str, enforced: str) -> str:
    """How the firewall stands, in words."""
    if not enforced:
        return "denying everything"
    return f"enforcing {'an older state' if blocked else 'the policy'} since {enforced}"


def _peer(peer: PeerState, owner: tuple[str, str]) -> records.MeshPeer:
    node, name = owner
    return records.MeshPeer(
        node=node,
        name=name,
        uri=peer.uri,
        direction="in" if peer.inbound else "out",
        up=peer.up,
        latency_ms=peer.latency_ms,
        cost=peer.cost,
        rx_bytes=peer.rx_bytes,
        tx_bytes=peer.tx_bytes,
        uptime_s=int(peer.uptime_s),
        note=peer.note,
    )
