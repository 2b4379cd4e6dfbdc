"""Ground for a firewall in the kernel: a node with a mesh interface and a LAN, who knocks, and what was dropped."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
from scapy.compat import raw
from scapy.layers import inet
from scapy.layers.inet6 import (
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet as Layers

from appliance.core.prefix import address_text, parse_address
from appliance.lab.host import Host
from appliance.netstack.nft.firewall import NftFirewall
from appliance.policy.enforcement import Drop
from appliance.policy.filter import Filter, Grant, Key
from tests.firewall_rig import (
    ECHO,
    HIGH,
    HOSTS,
    LOW,
    MEMBERS,
    NODE,
    OWN,
    TABLE,
    Pair,
    a_filter,
    like_a_tun,
)

LAN_HOST, NODE_ON_LAN, NOT_ON_LAN = (parse_address(text) for text in ("fd07::2", "fd07::1", "fd08::1"))
LAN = (parse_address("fd07::"), parse_address("fd08::ffff"))
BEHIND = 7  # the class of the LAN
MAPPED = bytes(10) + b"\xff\xff"
MAC = "02:00:00:00:00:01"
PATIENT_S = 5.0
TCP_NUMBER = 6


class Ground(NamedTuple):
    """The node with its mesh interface and a LAN, the far end, a host of the LAN, and the firewall."""

    pair: Pair
    lan: Host
    firewall: NftFirewall
    wanted: Filter


def the_filter() -> Filter:
    """Members may do everything low, and echo; so may the LAN; the node may open what is high."""
    base = a_filter(inbound=[(MEMBERS, LOW), (MEMBERS, ECHO), (HOSTS, LOW)], outbound=[(MEMBERS, HIGH)])
    for_lan = {Key(MEMBERS, BEHIND, LOW): Grant(())}
    return msgspec.structs.replace(
        base,
        locals={(OWN, OWN): NODE, LAN: BEHIND},
        inbound=base.inbound | for_lan,
        outbound=base.outbound | for_lan,
    )


@asynccontextmanager
async def standing() -> AsyncIterator[Ground]:
    """All of it, with the filter in force and dropped packets read."""
    pair = Pair()
    await asyncio.to_thread(pair.__enter__)
    try:
        lan = await asyncio.to_thread(_with_lan, pair)
        firewall = NftFirewall(TABLE, connect=pair.connect)
        await firewall.prepare()
        wanted = the_filter()
        await firewall.apply(wanted)
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(firewall.run())
            await asyncio.sleep(0)
            await firewall.verify()  # the worker does one thing after the other, so by now it reads the log
            yield Ground(pair, lan, firewall, wanted)
            reader.cancel()
        await firewall.close()
    finally:
        await asyncio.to_thread(pair.__exit__, None, None, None)


def _with_lan(pair: Pair) -> Host:
    (lan,) = pair.site.hosts("lan")
    pair.site.cable(pair.node, lan, names=("lan0", "lan1"))
    for host, interface, address in ((pair.node, "lan0", NODE_ON_LAN), (lan, "lan1", LAN_HOST)):
        like_a_tun(host, interface)
        host.ip(f"addr add {address_text(address)}/64 dev {interface} nodad")
    lan.ip("route add default dev lan1", "route add ::/0 dev lan1")
    pair.node.ip("route add 10.0.0.0/8 dev x0t0", "addr add 10.7.0.1/24 dev lan0", "addr add 10.0.0.1/32 dev x0t0")
    pair.node.forward()
    return lan


def v6(source: bytes, target: bytes, **fields: Any) -> Layers:
    return IPv6(src=address_text(source), dst=address_text(target), **fields)


def udp(port: int = 1500) -> Layers:
    return inet.UDP(sport=4000, dport=port) / b"hello"


async def first_drop(firewall: NftFirewall, fits: Callable[[Drop], bool] = lambda _: True) -> Drop:
    async with asyncio.timeout(PATIENT_S):
        while not (found := [drop for drop in firewall.drops() if fits(drop)]):  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.01)
    return found[0]


def send(ground: Ground, sender: str, layers: Layers) -> None:
    if sender == "node":
        _send_through_the_stack(ground.pair.node, raw(layers))
        return
    host, interface = (ground.pair.far, "far0") if sender == "far" else (ground.lan, "lan1")
    frame = raw(Ether(src=MAC, dst=MAC) / layers)
    with host.socket(socket.AF_PACKET, socket.SOCK_RAW) as one:
        one.bind((interface, 0))
        one.send(frame)


def _send_through_the_stack(node: Host, data: bytes) -> None:
    """A packet with a header of its own goes through the output hook all the same."""
    is_ipv4 = data[0] >> 4 == 4
    family = socket.AF_INET if is_ipv4 else socket.AF_INET6
    target = socket.inet_ntop(family, data[16:20] if is_ipv4 else data[24:40])
    with node.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as one:
        try:
            one.sendto(data, (target, 0))
        except PermissionError:
            pass  # dropped by the output chain
