"""What the firewall in memory does beyond the contract: fail when it is told to, and judge what is described."""

from __future__ import annotations

import pytest

from appliance.core.errors import X0tError
from appliance.netstack.fake.firewall import FakeFirewall
from appliance.netstack.nft.verdict import Packet, Way
from appliance.policy.enforcement import Stage
from tests.firewall_rig import FAR, LOW, MEMBERS, OWN, TABLE, UDP, a_filter


def packet(way: Way = Way.FROM_MESH, port: int = 1500) -> Packet:
    return Packet(way=way, source=FAR, target=OWN, protocol=UDP, port=port)


async def test_a_refused_change_leaves_what_was_in_force() -> None:
    firewall = FakeFirewall(TABLE)
    await firewall.prepare()
    await firewall.apply(a_filter(inbound=[(MEMBERS, LOW)]))
    firewall.refuse(2)
    for _ in range(2):
        with pytest.raises(X0tError) as caught:
            await firewall.apply(a_filter())
        assert caught.value.key == "firewall.refused"
    assert firewall.carry(packet()) is None
    await firewall.apply(a_filter())
    assert firewall.carry(packet()) is Stage.INBOUND


async def test_drops_are_remembered_oldest_first() -> None:
    firewall = FakeFirewall(TABLE)
    await firewall.prepare()
    for way, port in ((Way.FROM_MESH, 1), (Way.HAIRPIN, 2), (Way.OTHER_IN, 3)):
        firewall.carry(packet(way, port), 100)
    assert [(drop.stage, drop.port, drop.size_bytes) for drop in firewall.drops()] == [
        (Stage.INBOUND, 1, 100),
        (Stage.HAIRPIN, 2, 100),
        (Stage.SOURCE, 3, 100),
    ]


async def test_a_disturbance_is_told_and_mended() -> None:
    firewall = FakeFirewall(TABLE)
    await firewall.prepare()
    wanted = a_filter(inbound=[(MEMBERS, LOW)])
    await firewall.apply(wanted)
    firewall.disturb("firewalld (process 9)")
    assert await firewall.disturbed() == "firewalld (process 9)"
    assert await firewall.verify() != []
    assert (await firewall.apply(wanted)).rebuilt
    assert await firewall.verify() == []
