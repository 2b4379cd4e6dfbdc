"""Members that obey nobody: what one of them says again and again must not take the mesh from the others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.yggdrasil import node_address
from appliance.daemon.pace import Pace
from appliance.lab.site import Site
from appliance.netstack.yggdrasil.config import peer_password
from appliance.netstack.yggdrasil.key import generate_key
from appliance.netstack.yggdrasil.records import Candidate, Wanted
from appliance.policy.roster import Neighbour
from tests.yggdrasil_rig import MESH, SECRET, Node, flow, on_a_lan, running, want

REST_S = 600.0
FRANK, GRETA = b"f" * 32, b"g" * 32
CHANGES = 10


def neighbour(node: bytes, key: bytes, uris: tuple[str, ...] = ()) -> Neighbour:
    return Neighbour(node=node, name="it", key=key, address=node_address(key), uris=uris, relay=False, since=(0, b""))


def test_a_first_change_of_key_is_followed_at_once_and_the_next_one_after_a_rest() -> None:
    pace, keys = Pace(REST_S), [bytes([number]) * 32 for number in range(1, 5)]

    def linked(number: int, now_s: float) -> bytes:
        (found,) = pace.follow([neighbour(FRANK, keys[number])], {FRANK}, now_s)
        return found.key

    assert linked(0, 0.0) == keys[0]
    assert linked(1, 1.0) == keys[1]
    assert linked(2, 2.0) == linked(3, REST_S) == keys[1]
    assert linked(3, 1.0 + REST_S) == keys[3]
    assert linked(0, 2.0 + REST_S) == keys[3]


def test_an_address_of_another_that_comes_and_goes_is_a_change_too() -> None:
    pace, own = Pace(REST_S), neighbour(FRANK, FRANK)
    for now_s in range(0, 60, 2):
        with_it = pace.follow([own], {FRANK}, now_s)
        without = pace.follow([], {FRANK}, now_s + 1)
        if now_s > 2:
            assert with_it == without


def test_who_is_no_member_has_no_links_whatever_it_did_before() -> None:
    pace = Pace(REST_S)
    for number in range(1, 4):
        pace.follow([neighbour(FRANK, bytes([number]) * 32)], {FRANK}, number)
    assert pace.follow([], set(), 5.0) == ()


def test_other_news_of_a_member_is_followed_at_once_and_one_key_is_one_link() -> None:
    pace = Pace(REST_S)
    pace.follow([neighbour(FRANK, FRANK)], {FRANK}, 0.0)
    moved = neighbour(FRANK, FRANK, ("tls://10.9.0.1:1",))
    assert pace.follow([moved], {FRANK}, 1.0) == (moved,)
    assert pace.follow([moved, neighbour(GRETA, FRANK)], {FRANK, GRETA}, 2.0) == (moved,)


@pytest.fixture
def site(root: None) -> Iterator[Site]:
    with Site() as made:
        yield made


async def test_a_member_that_takes_a_new_key_every_second_does_not_stop_what_flows_between_others(
    site: Site, tmp_path: Path
) -> None:
    a, b = await on_a_lan(site, tmp_path, "a", "b")
    pace, loop = Pace(REST_S), asyncio.get_running_loop()

    def attach(key: bytes) -> None:
        """What the network does when the third member, which dials and cannot be dialled, says a key."""
        (found,) = pace.follow([neighbour(FRANK, key)], {FRANK}, loop.time())
        members = (a.member, b.member, Candidate(key=found.key))
        for node in (a, b):
            node.manager.want(Wanted(members=members, password=peer_password(SECRET, MESH, 1)))

    async with running(a, b):
        want(a, b)
        await a.linked(b)
        async with flow(a, b) as talk:
            await talk.flows()
            attach(generate_key().public)
            before = restarts(a, b)
            for _ in range(CHANGES):
                attach(generate_key().public)
                await asyncio.sleep(1.0)  # the attack itself
                await talk.flows()
            assert restarts(a, b) - before <= 2 * 2, "each may let in the first key, and follow one change"


def restarts(*nodes: Node) -> int:
    return sum(node.manager.state.restarts for node in nodes)
