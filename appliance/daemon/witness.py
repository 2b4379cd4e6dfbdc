"""Witness: what a node says to another that asks what became of its probe, and the asking.

A member may ask about its own address, or a host behind it, as the source, and about this node, or a host behind it, as
the target: nothing that it could not find out by sending. One question and one answer on a stream of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec

from appliance.core.errors import X0tError, error
from appliance.daemon.network import Network
from appliance.netstack.finding import Receiver
from appliance.policy.directory import Directory
from appliance.policy.enforcement import Stage
from appliance.policy.evaluate import Flow
from appliance.policy.filter_check import Direction, permits
from appliance.policy.model import MAX_PORT
from appliance.transport.peers import PeerIdentity
from appliance.transport.stream import Stream

WITNESS_PATH: Final = "/x0t/witness/1"
ASK_S: Final = 5.0
MAX_AGE_MS: Final = 60_000  # twice the longest probe
_LISTENING: Final = {6: ("tcp6", "0A"), 17: ("udp6", "07")}  # protocol: file of /proc/net, state of a socket that waits
Address = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A flow that was tried just now."""

    source: Address
    target: Address
    protocol: Annotated[int, msgspec.Meta(ge=0, le=255)]  # IANA number
    port: Annotated[int, msgspec.Meta(ge=0, le=MAX_PORT)]
    age_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_AGE_MS)]  # since the first packet was sent: clocks may differ


class Witness:
    """Answers members. It serves streams of `WITNESS_PATH`."""

    def __init__(self, network: Network, now_ms: Callable[[], int]) -> None:
        self._network = network
        self._now_ms = now_ms

    async def handle(self, peer: PeerIdentity, stream: Stream) -> None:
        """One question, one answer."""
        async with asyncio.timeout(ASK_S):
            asked = await stream.receive()
        if asked is None:
            return
        try:
            question = msgspec.msgpack.decode(asked, type=Question)
        except msgspec.MsgspecError as err:
            raise error("witness.question", reason=str(err)) from err
        await stream.send(msgspec.msgpack.encode(await self._answer(peer.node_id, question)))

    async def _answer(self, asker: bytes, asked: Question) -> Receiver:
        directory, enforced = self._network.roster.directory, self._network.enforced
        source, target = directory.place(asked.source), directory.place(asked.target)
        own = directory.by_address.get(self._network.kernel.yggdrasil.state.address)
        if source is None or source.node != asker or target is None or own is None or target.node != own.node:
            raise error("witness.question", reason="it is not about a flow between the asker and this node")
        flow = Flow(source=asked.source, target=asked.target, protocol=asked.protocol, port=asked.port)
        allowed = enforced is not None and permits(enforced, Direction.INBOUND, flow, self._now_ms())
        is_told = allowed and target.subject.host is None  # else the policy would not keep it from finding open ports
        return Receiver(
            allowed=allowed,
            dropped=dropped_at(self._network, flow, self._now_ms() - asked.age_ms),
            listening=await asyncio.to_thread(_is_awaited, asked.protocol, asked.port) if is_told else None,
        )


async def ask(flow: Flow, age_ms: int, open_stream: Callable[[], Awaitable[Stream]]) -> Receiver | None:
    """What the receiver's node says about a probe; None if it cannot be asked, or does not say."""
    question = Question(flow.source, flow.target, flow.protocol, flow.port, max(0, min(age_ms, MAX_AGE_MS)))
    try:
        async with asyncio.timeout(ASK_S):
            stream = await open_stream()
            try:
                await stream.send(msgspec.msgpack.encode(question))
                answer = await stream.receive()
            finally:
                await stream.close()
        return None if answer is None else msgspec.msgpack.decode(answer, type=Receiver)
    except (X0tError, TimeoutError, msgspec.MsgspecError):
        return None


def gateway_of(address: bytes, directory: Directory) -> bytes | None:
    """The node to ask about an address."""
    place = directory.place(address)
    return None if place is None else place.node


def dropped_at(network: Network, flow: Flow, since_ms: int) -> Stage | None:
    """The check that dropped a packet of a flow since a moment, as far as drops were sampled."""
    ends = (flow.source, flow.target, flow.protocol, flow.port)
    for drop in reversed(network.kernel.firewall.drops()):
        if drop.at_ms >= since_ms and (drop.source, drop.target, drop.protocol, drop.port) == ends:
            return drop.stage
    return None


def _is_awaited(protocol: int, port: int) -> bool | None:
    """True if a socket of this machine waits for it; None where the kernel does not tell."""
    if protocol not in _LISTENING:
        return True if protocol == 58 else None  # the kernel itself answers an echo request
    name, state = _LISTENING[protocol]
    lines = Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]
    sockets = [line.split() for line in lines]
    return any(int(each[1].rpartition(":")[2], 16) == port and each[3] == state for each in sockets)
