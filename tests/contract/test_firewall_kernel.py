"""What `nft` and `conntrack` see of our table, and what others have beside it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
)

from appliance.core.prefix import address_text
from appliance.lab.host import Host
from appliance.netstack.nft.firewall import wall_clock_ms
from appliance.netstack.nft.skeleton import skeleton
from appliance.netstack.nft.verdict import ICMPV6
from appliance.policy.enforcement import Stage
from appliance.policy.filter import Grant, Key
from tests.firewall_ground import BEHIND, LAN_HOST, NODE_ON_LAN, PATIENT_S, Ground, first_drop, send, udp, v6
from tests.firewall_rig import (
    ECHO,
    FAR,
    HIGH,
    HOSTS,
    LOW,
    MEMBERS,
    NODE,
    OWN,
    TABLE,
    UDP,
    a_filter,
)

pytestmark = pytest.mark.usefixtures("root")


async def test_nft_reads_what_was_applied(ground: Ground) -> None:
    until = {Key(MEMBERS, NODE, HIGH): Grant((), wall_clock_ms() + 90_900)}
    wanted = msgspec.structs.replace(ground.wanted, inbound=ground.wanted.inbound | until)
    await ground.firewall.apply(wanted)
    listed = await asyncio.to_thread(_listed, ground.pair.node)
    sets = {one["name"]: one for one in (*listed["set"], *listed["map"])}
    assert _pairs(sets["peers"]) == {address_text(key): value for key, value in wanted.peers.items()}
    assert _pairs(sets["services"]) == {
        "udp.1000-1999": LOW, "udp.2000-2999": HIGH, "ipv6-icmp.0-65535": ECHO,
    }  # fmt: skip
    assert _pairs(sets["locals"]) == {"200::1": NODE, "fd07::-fd08::ffff": BEHIND}
    assert _pairs(sets["peer_nets"]) == {"300:9::/112": HOSTS}
    assert _keys(sets["inbound"]) == {tuple(key) for key in wanted.inbound}
    assert _keys(sets["outbound"]) == {tuple(key) for key in wanted.outbound}
    assert [one["elem"]["timeout"] for one in sets["inbound"]["elem"] if "timeout" in one["elem"]] == [90]
    chains = {one["name"]: one for one in listed["chain"]}
    assert {name for name, one in chains.items() if "hook" in one} == {"input", "forward", "output"}
    assert set(chains) == {label.split()[1] for label in skeleton(TABLE) if label.startswith("chain ")}
    assert len(listed["rule"]) == sum(label.startswith("rule ") for label in skeleton(TABLE))


async def test_other_tables_are_left_alone_and_do_not_break_ours(ground: Ground) -> None:
    node = ground.pair.node
    docker = """
        table ip nat { chain DOCKER { }; chain PREROUTING { type nat hook prerouting priority dstnat; jump DOCKER; }; }
        table ip6 filter { chain FORWARD { type filter hook forward priority 0; policy accept; counter accept; }; }
        table inet firewalld {
            chain input { type filter hook input priority 10; policy drop; udp dport 1500 accept; }
        }
    """
    await asyncio.to_thread(node.run, ["nft", "-f", "-"], stdin=docker)
    before = await asyncio.to_thread(_listing, node)
    assert await ground.firewall.verify() == []
    await ground.firewall.apply(a_filter(inbound=[(MEMBERS, HIGH)]))
    await ground.firewall.apply(ground.wanted)
    await asyncio.to_thread(send, ground, "far", v6(FAR, OWN) / udp(3000))
    assert (await first_drop(ground.firewall)).stage is Stage.INBOUND
    await ground.firewall.remove()
    assert await asyncio.to_thread(_listing, node) == before


async def test_conversations_are_ended_as_conntrack_sees_it_and_others_are_left(ground: Ground) -> None:
    await asyncio.to_thread(send, ground, "far", v6(FAR, OWN) / udp(1500))
    await asyncio.to_thread(send, ground, "far", v6(FAR, OWN) / ICMPv6EchoRequest(id=3))
    await asyncio.to_thread(send, ground, "lan", v6(LAN_HOST, NODE_ON_LAN) / udp(1500))
    flows = {(flow.protocol, flow.port, flow.inbound, flow.state) for flow in await ground.firewall.flows()}
    assert (UDP, 1500, True, "unreplied") in flows
    assert any(protocol == ICMPV6 for protocol, *_ in flows)
    done = await ground.firewall.apply(a_filter(inbound=[(MEMBERS, ECHO)]))
    assert done.ended == 1
    left = (await asyncio.to_thread(ground.pair.node.run, ["conntrack", "-L", "-f", "ipv6"])).stdout
    assert "src=200::2" not in "".join(line for line in left.splitlines() if line.startswith("udp"))
    assert "src=fd07::2" in left


async def test_a_drop_says_what_it_was(ground: Ground) -> None:
    await asyncio.to_thread(send, ground, "far", v6(FAR, OWN) / udp(3000))
    drop = await first_drop(ground.firewall)
    assert abs(drop.at_ms - wall_clock_ms()) < PATIENT_S * 1000
    seen = (drop.stage, drop.source, drop.target, drop.protocol, drop.port, drop.size_bytes)
    assert seen == (Stage.INBOUND, FAR, OWN, UDP, 3000, 53)


def _listing(node: Host) -> str:
    names = ("ip nat", "ip6 filter", "inet firewalld")
    return "".join(node.run(["nft", "-s", "list", "table", *name.split()]).stdout for name in names)


def _listed(node: Host) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {"set": [], "map": [], "chain": [], "rule": []}
    for one in json.loads(node.run(["nft", "-j", "list", "table", "inet", TABLE.name]).stdout)["nftables"]:
        ((kind, content),) = one.items()
        found.setdefault(kind, []).append(content)
    return found


def _pairs(listed: dict[str, Any]) -> dict[str, int]:
    return {
        _text(key["elem"]["val"] if isinstance(key, dict) and "elem" in key else key): value
        for key, value in listed["elem"]
    }


def _keys(listed: dict[str, Any]) -> set[tuple[int, ...]]:
    """Behind the word that is always zero."""
    assert all(one["elem"]["val"]["concat"][0] == 0 for one in listed["elem"])
    return {tuple(one["elem"]["val"]["concat"][1:]) for one in listed["elem"]}


def _text(value: Any) -> str:  # whatever nft writes
    match value:
        case {"concat": parts}:
            return ".".join(_text(part) for part in parts)
        case {"range": [first, last]}:
            return f"{first}-{last}"
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case _:
            return str(value)
